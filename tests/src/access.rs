//! Brokers with users and rules.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lapwing::internals::auth::password::{Cost, Hash, PasswordEntry, line};

use crate::client::Client;
use crate::program::{Folder, Program};

/// Hashes of tests are cheap.
pub const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

/// The lines of a password file.
pub fn password_lines(users: &[(&str, &str)]) -> String {
    let line = |(user, password): &(&str, &str)| {
        let hash = Hash::make(password.as_bytes(), CHEAP, &mut Vec::new()).expect("a hash");
        line(user, &PasswordEntry { hash, scram: None }) + "\n"
    };
    users.iter().map(line).collect()
}

/// A file for its owner only.
pub fn secret_file(folder: &Folder, name: &str, text: &str) -> PathBuf {
    let path = folder.file(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    path
}

/// The users of tests: their password is their name and `-pw`.
pub const USERS: [&str; 4] = ["ann", "bob", "eve", "root"];

/// The password of a user of tests.
pub fn password(user: &str) -> String {
    format!("{user}-pw")
}

/// A broker with [users](crate::program::Setup::users).
impl Program {
    /// Replaces the rules, and waits until the broker has them.
    pub fn rules(&mut self, rules: &str) {
        self.folder.file("acl.toml", rules);
        self.reload();
    }

    /// SIGHUP; waits until everything is read anew, and for the line that says what came of it. The
    /// broker may have seen before the signal that a file has changed: then that line is the first
    /// of the two.
    pub fn reload_says(&mut self, text: &str) -> String {
        self.signal("HUP");
        let [_, line] = self.wait_for_all(["reloaded (asked to)", text]);
        line
    }

    /// Replaces the rules; waits as [`reload_says`](Self::reload_says).
    pub fn rules_say(&mut self, rules: &str, text: &str) -> String {
        self.folder.file("acl.toml", rules);
        self.reload_says(text)
    }

    /// SIGHUP; waits until everything is read anew.
    pub fn reload(&mut self) {
        self.signal("HUP");
        self.wait_for("reloaded (asked to)");
    }

    /// Connects as a user, with MQTT 5 and a session that is kept; the client identifier is the
    /// name.
    pub fn client(&self, user: &str) -> Client {
        self.client_with(user, "5.0", &[("clean", "0"), ("p.session_expiry", "3600")])
    }

    /// Connects as a user; the client identifier is the name.
    pub fn client_with(&self, user: &str, version: &'static str, more: &[(&str, &str)]) -> Client {
        let password = password(user);
        let all = [&[("id", user), ("user", user), ("password", &password)], more].concat();
        Client::connect(&self.address("mqtt"), version, &all).expect("the user may come in").0
    }
}

/// A password as Mosquitto 1 kept it: `$6$`, SHA-512 of password and salt.
pub fn mosquitto_1(password: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let salt = *b"twelve bytes";
    let mut context = ring::digest::Context::new(&ring::digest::SHA512);
    context.update(password.as_bytes());
    context.update(&salt);
    format!("$6${}${}", STANDARD.encode(salt), STANDARD.encode(context.finish()))
}
