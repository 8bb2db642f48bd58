//! Installation and supervision: systemd, a container, shells, the manual.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lapwing_tests::program::{Folder, Program, binary, root, run};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn systemd_is_told_when_the_broker_is_ready_alive_reloading_and_stopping() {
    let folder = Folder::new("systemd");
    let socket = UnixDatagram::bind(folder.0.join("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let file = folder.file("lapwing.toml", "[[listener]]\naddress = '127.0.0.1:0'\n");
    let mut broker = Command::new(binary())
        .arg("-c")
        .arg(&file)
        .env("LAPWING_STORE__DATA_DIR", folder.0.join("data"))
        .env("NOTIFY_SOCKET", folder.0.join("notify"))
        .env("WATCHDOG_USEC", "400000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let hear = || {
        let mut said = [0; 1024];
        let n = socket.recv(&mut said).expect("a word for systemd");
        String::from_utf8_lossy(&said[..n]).into_owned()
    };
    let after_watchdogs = || {
        loop {
            let said = hear();
            if said.trim() != "WATCHDOG=1" {
                break said;
            }
        }
    };
    let ready = hear();
    assert!(ready.starts_with("READY=1\nSTATUS=serves mqtt://127.0.0.1:"), "{ready}");
    assert_eq!((hear().trim(), hear().trim()), ("WATCHDOG=1", "WATCHDOG=1"));
    let signal = |name: &str| {
        let sent = Command::new("kill").args([format!("-{name}"), broker.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    signal("HUP");
    let reloading = after_watchdogs();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(after_watchdogs().starts_with("READY=1\n"));
    signal("TERM");
    assert_eq!(after_watchdogs().trim(), "STOPPING=1");
    assert!(broker.wait().unwrap().success());
}

#[test]
fn the_unit_is_one_that_systemd_reads() {
    // Not every system that builds has systemd.
    let analyze = Path::new("/usr/bin/systemd-analyze");
    if !analyze.is_file() {
        println!("SKIPPED: systemd-analyze is not here");
        return;
    }
    let folder = Folder::new("unit");
    let unit = std::fs::read_to_string(root().join("packaging/lapwing.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/lapwing -c /etc/lapwing/lapwing.toml\n"));
    let here = unit.replace("/usr/bin/lapwing", &binary().display().to_string());
    let file = folder.file("lapwing.service", &here);
    let output = Command::new(analyze).args(["verify", "--man=no"]).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_container_is_healthy_while_its_broker_answers_even_with_a_refusal() {
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let health = |port: &str| {
        let mut command = Command::new("sh");
        command.arg(root().join("packaging/container")).arg("health");
        command.env("PATH", &path).env("LAPWING_HEALTH_PORT", port).status().unwrap().success()
    };
    let mut open = Program::start("");
    let guarded = Program::with("").users("").start();
    assert!(health(&open.port("mqtt")) && health(&guarded.port("mqtt")));
    let port = open.port("mqtt");
    open.signal("TERM");
    open.wait();
    assert!(!health(&port));
}

#[test]
fn shells_complete_the_flags_of_each_command() {
    let folder = Folder::new("completions");
    let script = run(Command::new(binary()).args(["completions", "bash"]));
    let complete = |words: &str, last: &str| {
        let count = words.split(' ').count();
        let script = format!(
            "{script}\nCOMP_WORDS=({words} {last}); COMP_CWORD={count}; _lapwing lapwing {last} x; echo \"${{COMPREPLY[@]}}\""
        );
        // It is too long for an argument.
        run(Command::new("bash").arg(folder.file("complete.bash", &script))).trim().to_owned()
    };
    assert_eq!(complete("lapwing", "conv"), "convert");
    assert_eq!(complete("lapwing sub", "--retained"), "--retained-only");
    assert_eq!(complete("lapwing user add", "--password-f"), "--password-file");
    assert_eq!(complete("lapwing ctl retained", "del"), "delete");
    for shell in ["zsh", "fish"] {
        assert!(
            run(Command::new(binary()).args(["completions", shell])).contains("retained-only"),
            "{shell}"
        );
    }
}

#[test]
fn each_command_has_a_page_in_the_manual() {
    let folder = Folder::new("manual");
    run(Command::new(binary()).arg("man").arg(&folder.0));
    for page in [
        "lapwing",
        "lapwing-pub",
        "lapwing-sub",
        "lapwing-user-add",
        "lapwing-store-backup",
        "lapwing-ctl-clients",
    ] {
        let text = std::fs::read_to_string(folder.0.join(format!("{page}.1"))).unwrap();
        assert!(text.contains(&format!(".TH {page} 1")) && text.contains(".SH OPTIONS"), "{page}");
    }
    assert!(run(Command::new(binary()).arg("man")).contains(".TH lapwing 1"));
}
