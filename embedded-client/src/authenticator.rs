//! Enhanced authentication (`4.12`): the words between a method of the application and the server.

/// A method of enhanced authentication, such as SCRAM: MQTT 5 only.
pub trait Authenticator {
    /// Its name.
    fn method(&self) -> &str;

    /// Writes the answer to what the server said to the front of `out` and returns its length. `challenge` is `None` for the data that go
    /// with CONNECT, for which `out` has 80 bytes; afterwards it has what is free in the outbox. `None` gives up: before the connection
    /// it means no data, afterwards that the connection is closed.
    fn respond(&self, challenge: Option<&[u8]>, out: &mut [u8]) -> Option<usize>;

    /// The server has let the client in; `data` are its last words, such as the signature of SCRAM that proves that the server knows the password, too.
    /// `false` leaves it again, with [`Error::ServerUnproven`](crate::Error::ServerUnproven).
    fn conclude(&self, data: &[u8]) -> bool {
        let _ = data;
        true
    }
}
