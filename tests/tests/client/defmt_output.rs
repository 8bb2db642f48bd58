//! Errors of the client by `defmt`: firmware prints them all in the emulator, and they are read
//! with the strings of its symbol table.
//!
//! `./check` builds it; `LAPWING_FIRMWARE` is the folder of the programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use lapwing_tests::program::is_there;

/// The format strings of a 32-bit little-endian ELF file, by the number that stands for them on the
/// wire: the address of their symbol.
fn formats(elf: &[u8]) -> HashMap<u32, String> {
    let short = |at: usize| u16::from_le_bytes(*elf[at..].first_chunk().unwrap()) as usize;
    let word = |at: usize| u32::from_le_bytes(*elf[at..].first_chunk().unwrap()) as usize;
    let (sections, size, count) = (word(0x20), short(0x2e), short(0x30));
    let section = |n: usize| sections + n * size;
    let symbols = (0..count).map(section).find(|at| word(at + 4) == 2).expect("a symbol table");
    let names = word(section(word(symbols + 24)) + 16);
    let mut formats = HashMap::new();
    for at in (word(symbols + 16)..).step_by(16).take(word(symbols + 20) / 16) {
        let name = &elf[names + word(at)..];
        let name = std::str::from_utf8(&name[..name.iter().position(|byte| *byte == 0).unwrap()]).unwrap();
        if let Some((_, rest)) = name.split_once(r#""data":""#) {
            formats.insert(word(at + 4) as u32, rest.split('"').next().unwrap().to_owned());
        }
    }
    formats
}

/// A frame of `println!("{}", error)`, raw encoding.
fn read(frame: &str, formats: &HashMap<u32, String>) -> String {
    let bytes: Vec<u8> =
        (0..frame.len()).step_by(2).map(|at| u8::from_str_radix(&frame[at..at + 2], 16).unwrap()).collect();
    let name = |at: usize| formats[&u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))].as_str();
    assert_eq!(name(0), "{}");
    match name(2) {
        // Written by hand: the string, its numbers, a zero.
        "{=__internal_FormatSequence}" => match name(4).split_once("{=u8:#x}") {
            Some((before, after)) => format!("{before}{:#x}{after}", bytes[6]),
            None => name(4).to_owned(),
        },
        // Derived: all names, and which of them.
        names => {
            names.split('|').nth(bytes.get(4).map_or(0, |which| usize::from(*which))).unwrap().to_owned()
        }
    }
}

#[test]
fn every_error_is_named_by_defmt() {
    let folder =
        std::env::var_os("LAPWING_FIRMWARE").map_or_else(|| PathBuf::from("firmware"), PathBuf::from);
    let firmware = folder.join("errors");
    if !is_there("the firmware for QEMU (LAPWING_FIRMWARE)", &firmware)
        || !is_there("qemu-system-arm", Path::new("qemu-system-arm"))
    {
        return;
    }
    let output = Command::new("qemu-system-arm")
        .args(["-cpu", "cortex-m3", "-machine", "lm3s6965evb", "-display", "none", "-monitor", "none"])
        .args(["-semihosting-config", "enable=on,target=native", "-kernel"])
        .arg(&firmware)
        .output()
        .expect("the emulator starts");
    assert!(output.status.success(), "{output:?}");
    let said = [output.stdout, output.stderr].concat();
    let formats = formats(&std::fs::read(&firmware).unwrap());
    let frames = std::str::from_utf8(&said).unwrap().lines();
    let frames = frames.filter(|line| line.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let read: Vec<_> = frames.map(|frame| read(frame, &formats)).collect();
    assert_eq!(
        read,
        [
            "refused, reason code 0x87",
            "a subscription was refused",
            "a message larger than the inbound buffer was skipped",
            "CONNECT or SUBSCRIBE is larger than the inbound buffer",
            "too many subscriptions",
            "the server did not prove who it is",
            "Full",
            "TopicInvalid",
            "PropertyInvalid",
            "LinkDown",
            "LatestPerTopic",
        ]
    );
}
