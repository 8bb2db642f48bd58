//! `docs/OPERATIONS.md` as a reader follows it: its blocks of commands, one after the other, in one
//! folder.

use std::path::Path;
use std::process::{Command, Stdio};

use lapwing_tests::program::{Folder, Program, binary, is_there, root};

/// The blocks of shell commands.
fn blocks() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a block as it stands, but for the port; what it prints.
fn run(folder: &Path, block: &str, port: &str) -> String {
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let script = block.replace("-p 8883", &format!("-p {port}"));
    let mut command = Command::new("bash");
    command
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(folder)
        .env("PATH", path)
        // As the broker of the test is started.
        .env("LAPWING_STORE__DATA_DIR", folder.join("data"))
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{block}\n{text}");
    text
}

#[test]
fn the_commands_of_the_operations_page_work_as_written() {
    if !is_there("mosquitto_pub", "mosquitto_pub".as_ref()) {
        return;
    }
    let blocks = blocks();
    let [set_up, first, explain, ban, devices, device, revoke] = &blocks[..] else {
        panic!("{} blocks: the test follows the page, mend both", blocks.len());
    };
    let folder = Folder::new("operations");
    let path = &folder.0;
    // The last of the five commands starts the broker; tests listen on this machine only, on any
    // free port.
    assert!(set_up.ends_with("lapwing -c lapwing.toml\n") && set_up.lines().count() == 5, "{set_up}");
    assert!(set_up.contains("0.0.0.0:8883"));
    let before_start = set_up.replace("lapwing -c lapwing.toml\n", "").replace("0.0.0.0:8883", "127.0.0.1:0");
    run(path, &before_start, "0");
    let start = || {
        let broker = Program::by(&["-c", "lapwing.toml"]).inside(path).start();
        let port = broker.port("mqtts");
        (broker, port)
    };
    let (mut broker, port) = start();
    assert!(run(path, first, &port).contains("open"));
    let explained = run(path, explain, &port);
    assert!(explained.contains("acl.toml:") && explained.matches("allowed").count() >= 1, "{explained}");
    let banned = run(path, ban, &port);
    assert!(banned.contains("user ann") && banned.contains("lost her phone"), "{banned}");
    assert!(banned.contains("none\nnone"), "nobody is connected, nobody would get it: {banned}");
    broker.signal("TERM");
    assert!(broker.wait().success());

    run(path, devices, &port);
    let (mut broker, port) = start();
    run(path, device, &port);
    run(path, revoke, &port);
    let toml = std::fs::read_to_string(path.join("lapwing.toml")).unwrap();
    let (ca, crl) = ("client_ca_file = ", "client_crl_file = \"certificates/crl.pem\"\nclient_ca_file = ");
    std::fs::write(path.join("lapwing.toml"), toml.replace(ca, crl)).unwrap();
    broker.signal("TERM");
    assert!(broker.wait().success());
    let (mut broker, port) = start();
    run(path, device, &port);
    let stolen = device.replace("sensor-1", "sensor-2");
    let refused = std::panic::catch_unwind(|| run(path, &stolen, &port));
    assert!(refused.is_err(), "a device with a revoked certificate is let in");
    // From now on a revocation counts while the broker runs.
    run(path, "lapwing cert revoke sensor-1\n", &port);
    broker.wait_for("reloaded (a file has changed)");
    assert!(std::panic::catch_unwind(|| run(path, device, &port)).is_err());
}
