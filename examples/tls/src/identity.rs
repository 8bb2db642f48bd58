//! Identity of the device, the authority that it trusts, and its random numbers.

use embedded_tls::pki::CertVerifier;
use embedded_tls::{
    Aes128GcmSha256, Certificate, CryptoProvider, CryptoRngCore, SignatureScheme, TlsClock, TlsError,
    TlsVerifier,
};
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::DecodePrivateKey;
use signature::SignerMut;

/// The largest certificate of a server that is taken, in bytes of DER.
const CERTIFICATE_MAX: usize = 1_024;

/// Trusts one authority, and may have a certificate of its own. All certificates have P-256 keys
/// and ECDSA with SHA-256, as `lapwing cert` and `openssl ecparam -name prime256v1` make them: that
/// keeps RSA and other curves out of the flash.
pub struct Identity<'a, Rng, Clock: TlsClock> {
    rng: Rng,
    verifier: CertVerifier<'a, Aes128GcmSha256, Clock, CERTIFICATE_MAX>,
    own: Option<(&'a [u8], SigningKey)>,
}

impl<'a, Rng: CryptoRngCore, Clock: TlsClock> Identity<'a, Rng, Clock> {
    /// Trusts servers with a certificate of this authority (DER). `rng` is the hardware's random
    /// number generator, or one that it seeds. Where the `Clock` knows no time, certificates that
    /// have ended are taken.
    pub fn trusting(authority: &'a [u8], rng: Rng) -> Self {
        Identity { rng, verifier: CertVerifier::new(Certificate::X509(authority)), own: None }
    }

    /// With a certificate (DER) and its key (PKCS #8, DER) for servers that want to know who
    /// connects.
    ///
    /// # Errors
    /// The key is not a P-256 key in PKCS #8.
    pub fn with_certificate(mut self, certificate: &'a [u8], key: &[u8]) -> Result<Self, TlsError> {
        let key = SigningKey::from_pkcs8_der(key).map_err(|_| TlsError::InvalidPrivateKey)?;
        self.own = Some((certificate, key));
        Ok(self)
    }
}

impl<Rng: CryptoRngCore, Clock: TlsClock> CryptoProvider for Identity<'_, Rng, Clock> {
    type CipherSuite = Aes128GcmSha256;
    type Signature = DerSignature;

    fn rng(&mut self) -> impl CryptoRngCore {
        &mut self.rng
    }

    fn verifier(&mut self) -> Result<&mut impl TlsVerifier<Aes128GcmSha256>, TlsError> {
        Ok(&mut self.verifier)
    }

    fn signer(&mut self) -> Result<(impl SignerMut<DerSignature>, SignatureScheme), TlsError> {
        let (_, key) = self.own.as_ref().ok_or(TlsError::InvalidPrivateKey)?;
        Ok((key.clone(), SignatureScheme::EcdsaSecp256r1Sha256))
    }

    fn client_cert(&mut self) -> Option<Certificate<impl AsRef<[u8]>>> {
        self.own.as_ref().map(|(certificate, _)| Certificate::X509(*certificate))
    }
}
