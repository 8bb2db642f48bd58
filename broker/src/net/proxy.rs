//! The PROXY protocol, versions 1 and 2: a proxy names the client whose connection it forwards.
//!
//! Only listed proxies are believed, and they must send a header: otherwise any client could claim
//! any address. The header is read exactly and nothing behind it, so that TLS and MQTT find their
//! first byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// First bytes of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of signature, version and command, family, length.
const V2_HEAD: usize = 16;
/// Longest header of version 1 with its line end, in bytes.
const V1_MAX: usize = 107;
/// Longest header of version 2 that is read. Addresses take at most 216 bytes; the rest are
/// extensions, which are ignored.
const V2_MAX: usize = 4_096;

/// Content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Connection of this client.
    Client(SocketAddr),
    /// The proxy's own connection, like a health check, or one of an unknown client.
    Proxy,
}

/// Result of a search for a header at the front of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderScan {
    /// A header with this number of bytes.
    Header(Header, usize),
    /// The beginning of a header: at least this number of bytes is missing.
    Incomplete(usize),
}

/// Finds a header at the front of bytes.
///
/// # Errors
/// The reason why there is none.
pub fn find(bytes: &[u8]) -> Result<HeaderScan, &'static str> {
    if bytes.is_empty() {
        return Ok(HeaderScan::Incomplete(SIGNATURE.len()));
    }
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    // No input begins like both versions.
    if begins(&SIGNATURE) {
        return v2(bytes);
    }
    if !begins(b"PROXY ") {
        return Err("no PROXY header: the proxy has to be told to send one (HAProxy: send-proxy-v2)");
    }
    match bytes.iter().take(V1_MAX).position(|byte| *byte == b'\n') {
        Some(end) => v1(bytes.get(..end).unwrap_or(&[])).map(|header| HeaderScan::Header(header, end + 1)),
        None if bytes.len() >= V1_MAX => Err("a PROXY header without an end"),
        // Only the line end is certainly missing.
        None => Ok(HeaderScan::Incomplete(1)),
    }
}

/// Parses `PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r`.
fn v1(line: &[u8]) -> Result<Header, &'static str> {
    const WRONG: &str = "a PROXY header of version 1 that is not as it should be";
    let line = line.strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()).ok_or(WRONG)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(WRONG)?;
    if family == "UNKNOWN" {
        return Ok(Header::Proxy);
    }
    let (source, _) = (words.next().ok_or(WRONG)?, words.next().ok_or(WRONG)?);
    let port: u16 = words.next().and_then(|port| port.parse().ok()).ok_or(WRONG)?;
    let ip = match family {
        "TCP4" => source.parse::<Ipv4Addr>().map(IpAddr::V4),
        "TCP6" => source.parse::<Ipv6Addr>().map(IpAddr::V6),
        _ => return Err(WRONG),
    };
    Ok(Header::Client(SocketAddr::new(ip.map_err(|_| WRONG)?, port)))
}

fn v2(bytes: &[u8]) -> Result<HeaderScan, &'static str> {
    let Some(head) = bytes.get(..V2_HEAD) else { return Ok(HeaderScan::Incomplete(V2_HEAD - bytes.len())) };
    let [.., command, family, high, low] = head else { return Ok(HeaderScan::Incomplete(1)) };
    let len = V2_HEAD + usize::from(u16::from_be_bytes([*high, *low]));
    if command >> 4 != 2 {
        return Err("a PROXY header of a version that is not known");
    }
    if len > V2_MAX {
        return Err("a PROXY header longer than 4096 bytes");
    }
    let Some(body) = bytes.get(V2_HEAD..len) else { return Ok(HeaderScan::Incomplete(len - bytes.len())) };
    let port = |at: usize| match body.get(at..at + 2) {
        Some([high, low]) => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err("a PROXY header without the port that it announces"),
    };
    let header = match (command & 0xf, family) {
        (0, _) => Header::Proxy,
        (1, 0x11) => {
            let ip: [u8; 4] = body.first_chunk().copied().ok_or("a PROXY header without its address")?;
            Header::Client(SocketAddr::new(IpAddr::from(ip), port(8)?))
        }
        (1, 0x21) => {
            let ip: [u8; 16] = body.first_chunk().copied().ok_or("a PROXY header without its address")?;
            Header::Client(SocketAddr::new(IpAddr::from(ip), port(32)?))
        }
        // Unix sockets and datagrams: the client is unknown.
        (1, _) => Header::Proxy,
        _ => return Err("a PROXY header with a command that is not known"),
    };
    Ok(HeaderScan::Header(header, len))
}

/// Reads the header of a connection; `None` if it was closed before the first byte, as by health
/// checks.
pub(super) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Header>, String> {
    let mut bytes = Vec::new();
    // Length of the shortest header of either version.
    let mut more = SIGNATURE.len();
    loop {
        let before = bytes.len();
        bytes.resize(before + more, 0);
        let read = stream.read(bytes.get_mut(before..).unwrap_or(&mut [])).await;
        let read = read.map_err(|error| format!("before the PROXY header was whole: {error}"))?;
        bytes.truncate(before + read);
        match read {
            0 if bytes.is_empty() => return Ok(None),
            0 => return Err("closed before the PROXY header was whole".to_owned()),
            _ => {}
        }
        match find(&bytes)? {
            HeaderScan::Header(header, _) => return Ok(Some(header)),
            HeaderScan::Incomplete(n) => more = n.max(SIGNATURE.len().saturating_sub(bytes.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2 for TCP over IPv4, with this number of bytes behind the addresses.
    fn binary(command: u8, family: u8, addresses: &[u8], additions: usize) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(((addresses.len() + additions) as u16).to_be_bytes());
        bytes.extend(addresses);
        bytes.extend(vec![0xee; additions]);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 127, 0, 0, 1, 0xdc, 0x04, 0x07, 0x5b];

    fn headers() -> Vec<(Vec<u8>, Header)> {
        let client = Header::Client("192.0.2.7:56324".parse().unwrap());
        let six = Header::Client("[2001:db8::7]:56324".parse().unwrap());
        let mut v6 = [0u8; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&56_324u16.to_be_bytes());
        vec![
            (b"PROXY TCP4 192.0.2.7 127.0.0.1 56324 1883\r\n".to_vec(), client),
            (b"PROXY TCP6 2001:db8::7 ::1 56324 1883\r\n".to_vec(), six),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Proxy),
            (b"PROXY UNKNOWN what ever it says\r\n".to_vec(), Header::Proxy),
            (binary(0x21, 0x11, &V4, 0), client),
            (binary(0x21, 0x11, &V4, 100), client),
            (binary(0x21, 0x21, &v6, 7), six),
            (binary(0x20, 0, &[], 0), Header::Proxy),
            (binary(0x21, 0x31, &[0; 216], 0), Header::Proxy),
        ]
    }

    #[test]
    fn both_versions_name_the_client_and_take_no_byte_behind_the_header() {
        for (bytes, header) in headers() {
            let mut more = bytes.clone();
            more.extend(b"\x10\x0c\x00\x04MQTT");
            assert_eq!(find(&more), Ok(HeaderScan::Header(header, bytes.len())));
            for cut in 0..bytes.len() {
                match find(&bytes[..cut]) {
                    Ok(HeaderScan::Incomplete(n)) => assert!(n > 0 && cut + n <= bytes.len(), "{cut}: {n}"),
                    other => panic!("{cut} bytes of {bytes:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_header_are_refused() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for bytes in [
            &b"\x10\x0c\x00\x04MQTT"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 99999 1883\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\n",
            b"PROXY UDP4 192.0.2.7 127.0.0.1 1 2\r\n",
            &long,
            &binary(0x31, 0x11, &V4, 0),
            &binary(0x22, 0x11, &V4, 0),
            &binary(0x21, 0x11, &V4[..6], 0),
            &binary(0x21, 0x11, &V4, 5_000),
        ] {
            assert!(find(bytes).is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn nothing_behind_the_header_is_read() {
        for (mut bytes, header) in headers() {
            bytes.extend(b"MQTT");
            let mut stream = &bytes[..];
            assert_eq!(receive(&mut stream).await, Ok(Some(header)));
            assert_eq!(stream, b"MQTT");
        }
    }
}
