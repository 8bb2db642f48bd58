//! Reads a password: from the terminal without echo, else the first line of standard input.
//! Passwords are no arguments, since every process of the machine can read those.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Longest password that MQTT can carry, in bytes.
const BYTES_MAX: u64 = 65_535;

/// Guard that turns the echo on again.
struct Silence<'t> {
    terminal: &'t File,
    before: Termios,
}

impl Silence<'_> {
    fn of(terminal: &File) -> std::io::Result<Silence<'_>> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        silent.local_modes |= LocalModes::ECHONL;
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn line(from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    BufReader::new(from.take(BYTES_MAX + 2)).read_until(b'\n', &mut line)?;
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(line)
}

/// Reads a password; `twice` asks again, so that a typing error is noticed.
///
/// # Errors
/// There is none, or the two differ.
pub fn read(user: &str, twice: bool) -> Result<Zeroizing<Vec<u8>>, String> {
    let password = if std::io::stdin().is_terminal() {
        let mut terminal =
            File::options().read(true).write(true).open("/dev/tty").map_err(|e| format!("/dev/tty: {e}"))?;
        let mut ask = |words: &str| {
            terminal.write_all(words.as_bytes()).map_err(|e| e.to_string())?;
            let _silence = Silence::of(&terminal).map_err(|e| e.to_string())?;
            line(&terminal).map_err(|e| e.to_string())
        };
        let password = ask(&format!("Password for {user}: "))?;
        if twice && ask("The same again: ")? != password {
            return Err("the two passwords differ".to_owned());
        }
        password
    } else {
        line(std::io::stdin()).map_err(|error| format!("standard input: {error}"))?
    };
    match password.len() {
        0 => Err("the password is empty".to_owned()),
        len if len as u64 > BYTES_MAX => Err(format!("the password is longer than {BYTES_MAX} bytes")),
        _ => Ok(password),
    }
}
