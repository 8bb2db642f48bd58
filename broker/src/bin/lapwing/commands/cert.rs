//! `lapwing cert server|device`: a private certificate authority, so that TLS takes one command to
//! try. The authority is made with the first certificate; a client that trusts `ca.pem` trusts all
//! it signs.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use x509_cert::der::Decode;

const AUTHORITY: &str = "Lapwing local authority";
const DAY: Duration = Duration::from_secs(86_400);
/// Longest validity that strict clients accept, in days.
const SERVER_DAYS: u32 = 397;
const AUTHORITY_DAYS: u32 = 3_650;

/// Commands for certificates.
#[derive(Args, Debug)]
pub struct Cert {
    /// The folder of certificates and keys, created if it is missing
    #[arg(long, default_value = "certificates", global = true)]
    folder: PathBuf,
    /// Days that the certificate is valid
    #[arg(long, global = true)]
    days: Option<u32>,
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Make a certificate for the broker; print the lines for its configuration
    Server {
        /// The address to listen on, in the printed lines
        #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8883")]
        listen: String,
        /// The names and addresses that clients use for it [default: localhost, 127.0.0.1, ::1 and
        /// the name of this machine]
        names: Vec<String>,
    },
    /// Make a certificate for each of these devices: its name is the device's user
    Device {
        /// Their names: letters, digits, and - _ .
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Revoke the certificates of these devices: writes crl.pem, for client_crl_file
    Revoke {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

fn authority_params() -> Result<CertificateParams, String> {
    let mut params = params(Vec::new(), AUTHORITY, AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(names: Vec<String>, common_name: &str, days: u32) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // Clocks of devices are not always right.
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY * days).into();
    Ok(params)
}

/// Writes a new file, or replaces the one at `over`.
fn write(path: &Path, text: &str, secret: bool, over: bool) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    if over {
        let _ = std::fs::remove_file(path);
    }
    let mode = if secret { 0o600 } else { 0o644 };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(wrong)
}

/// Returns the authority of the folder, made if there is none.
fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, String> {
    let (certificate_file, key_file) = (folder.join("ca.pem"), folder.join("ca-key.pem"));
    if key_file.exists() {
        let wrong = |error: String| format!("{}: {error}", key_file.display());
        let key = std::fs::read_to_string(&key_file).map_err(|error| wrong(error.to_string()))?;
        let key =
            KeyPair::from_pem(&key).map_err(|error| wrong(format!("no key of `lapwing cert`: {error}")))?;
        return Ok(Issuer::new(authority_params()?, key));
    }
    if certificate_file.exists() {
        return Err(format!(
            "{} is there and its key {} is not: give another --folder, or put the key back",
            certificate_file.display(),
            key_file.display()
        ));
    }
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let params = authority_params()?;
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    write(&key_file, &key.serialize_pem(), true, false)?;
    write(&certificate_file, &certificate.pem(), false, false)?;
    eprintln!(
        "made an authority: clients trust {}; keep {} where nobody else can read it",
        certificate_file.display(),
        key_file.display()
    );
    Ok(Issuer::new(params, key))
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn sign(
    folder: &Path,
    file: &str,
    mut params: CertificateParams,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(), String> {
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let issuer = authority(folder)?;
    let certificate = params.signed_by(&key, &issuer).map_err(|error| error.to_string())?;
    write(&folder.join(format!("{file}-key.pem")), &key.serialize_pem(), true, true)?;
    write(&folder.join(format!("{file}.pem")), &certificate.pem(), false, true)
}

/// Adds the certificates of these devices to the revocation list.
fn revoke(folder: &Path, names: &[String]) -> Result<(), String> {
    if !folder.join("ca-key.pem").exists() {
        return Err(format!("there is no authority in {}: name its --folder", folder.display()));
    }
    // Serial numbers in hexadecimal, one a line: a signed list cannot be extended.
    let list = folder.join("revoked");
    let known = std::fs::read_to_string(&list).unwrap_or_default();
    let mut serials: Vec<String> = known.lines().map(str::to_owned).collect();
    for name in names {
        let path = folder.join(format!("{name}.pem"));
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let der = CertificateDer::from_pem_file(&path).map_err(|error| wrong(&error))?;
        let certificate = x509_cert::Certificate::from_der(&der).map_err(|error| wrong(&error))?;
        let serial = certificate.tbs_certificate.serial_number.as_bytes();
        serials.push(serial.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    serials.sort();
    serials.dedup();
    let bytes = |hex: &String| -> Option<Vec<u8>> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
    };
    let now = SystemTime::now();
    let one = |hex: &String| {
        let serial = bytes(hex).ok_or_else(|| format!("{}: '{hex}' is no serial number", list.display()))?;
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        })
    };
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let params = CertificateRevocationListParams {
        this_update: (now - DAY).into(),
        next_update: (now + DAY * AUTHORITY_DAYS).into(),
        crl_number: SerialNumber::from(seconds),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(one).collect::<Result<_, String>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let signed = params.signed_by(&authority(folder)?).and_then(|list| list.pem());
    write(&folder.join("crl.pem"), &signed.map_err(|error| error.to_string())?, false, true)?;
    write(&list, &(serials.join("\n") + "\n"), false, true)
}

/// Runs the command.
///
/// # Errors
/// Returns the reason that it failed.
pub fn run(cert: &Cert) -> Result<ExitCode, String> {
    let folder = &cert.folder;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?;
    let shown = |name: &str| folder.join(name).display().to_string();
    match &cert.command {
        CertCommand::Server { listen, names } => {
            let usual = || {
                let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
                local.into_iter().chain(host_name()).collect::<Vec<_>>()
            };
            let names = if names.is_empty() { usual() } else { names.clone() };
            let first = names.first().cloned().unwrap_or_default();
            let host = names.iter().find(|name| name.parse::<IpAddr>().is_err()).unwrap_or(&first);
            let params = params(names.clone(), host, cert.days.unwrap_or(SERVER_DAYS))?;
            sign(folder, "server", params, ExtendedKeyUsagePurpose::ServerAuth)?;
            println!(
                "# The broker as {}. In its configuration:\n\n[[listener]]\naddress = \"{listen}\"\ntransport = \"tls\"\n\
                 certificate_file = \"{}\"\nkey_file = \"{}\"\n# For devices with certificates (lapwing cert device NAME):\n\
                 # client_ca_file = \"{}\"\n# client_certificate = \"required\"\n# certificate_user = [\"{{dns}}\"]\n",
                names.join(", "),
                shown("server.pem"),
                shown("server-key.pem"),
                shown("ca.pem")
            );
            let port = listen.rsplit(':').next().unwrap_or("8883");
            println!(
                "# Then: mosquitto_pub -h {host} -p {port} --cafile {} -t test -m hello",
                shown("ca.pem")
            );
        }
        CertCommand::Revoke { names } => {
            revoke(folder, names)?;
            println!("client_crl_file = \"{}\"", shown("crl.pem"));
        }
        CertCommand::Device { names } => {
            for name in names {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if name.is_empty()
                    || !name.chars().all(plain)
                    || name.starts_with('.')
                    || name == "ca"
                    || name == "server"
                {
                    return Err(format!(
                        "'{name}' is no name for a device: letters, digits, and - _ . make one"
                    ));
                }
                let params = params(vec![name.clone()], name, cert.days.unwrap_or(SERVER_DAYS))?;
                sign(folder, name, params, ExtendedKeyUsagePurpose::ClientAuth)?;
                println!(
                    "{name}: {} and {}, and {} to know the broker by",
                    shown(&format!("{name}.pem")),
                    shown(&format!("{name}-key.pem")),
                    shown("ca.pem")
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
