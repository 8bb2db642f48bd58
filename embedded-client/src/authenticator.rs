//! Enhanced authentication (`4.12`): the hook between an authentication method and the client.

/// A method of enhanced authentication, such as SCRAM: MQTT 5 only.
pub trait Authenticator {
    /// Returns the name of the method.
    fn method(&self) -> &str;

    /// Writes the answer to a challenge to the front of `out` and returns its length.
    ///
    /// `challenge` is `None` for the data in CONNECT, for which `out` has 80 bytes. Afterwards
    /// `out` is the free part of the outbox. Returning `None` in CONNECT means no data; later it
    /// closes the connection.
    fn respond(&self, challenge: Option<&[u8]>, out: &mut [u8]) -> Option<usize>;

    /// Checks the server's last data after it has accepted the client.
    ///
    /// The data are, for example, the signature of SCRAM, which proves that the server knows the
    /// password. `false` disconnects with [`Error::ServerUnproven`](crate::Error::ServerUnproven).
    fn conclude(&self, data: &[u8]) -> bool {
        let _ = data;
        true
    }
}
