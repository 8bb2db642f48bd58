//! `docs/TEST-DRIVE.md` as a reader follows it: its blocks of commands, one after the other, in one
//! folder.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use lapwing_tests::program::{Folder, Program, binary, is_there, root};

/// The blocks of shell commands.
fn blocks() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/TEST-DRIVE.md")).unwrap();
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The ports that the page names, and those that the broker has here.
type Ports = Vec<(&'static str, String)>;

fn shell(folder: &Path, block: &str, ports: &Ports) -> Command {
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let script = ports.iter().fold(block.to_owned(), |script, (page, here)| script.replace(page, here));
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).current_dir(folder).stdin(Stdio::null());
    // Where brokers of tests have their state.
    command.env("PATH", path).env("LAPWING_STORE__DATA_DIR", folder.join("data"));
    command
}

/// Runs a block as it stands, but for the ports; what it prints.
fn run(folder: &Path, block: &str, ports: &Ports) -> String {
    let output = shell(folder, block, ports).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{block}\n{text}");
    text
}

#[test]
fn the_commands_of_the_test_drive_work_as_written() {
    if !is_there("curl", "curl".as_ref()) {
        return;
    }
    let blocks = blocks();
    let [first_run, hello, folders, set_up, tls, rules, figures, away, trace, publish, explain, mended] =
        &blocks[..]
    else {
        panic!("{} blocks: the test follows the page, mend both", blocks.len());
    };
    let folder = Folder::new("test-drive");
    assert_eq!(first_run, "cargo run --release -p lapwing\n");
    let mut broker = Program::by(&["--listen", "127.0.0.1:0"]).inside(&folder.0).start();
    let port = broker.port("mqtt");
    let ports = ["pub", "sub"].map(|tool| match tool {
        "pub" => ("lapwing pub ", format!("lapwing pub -p {port} ")),
        _ => ("lapwing sub ", format!("lapwing sub -p {port} ")),
    });
    let said = run(&folder.0, hello, &ports.to_vec());
    assert!(said.contains("home/temp 21.5") && said.contains(&format!("127.0.0.1:{port}")), "{said}");
    broker.signal("INT");
    assert!(broker.wait().success());

    run(&folder.0, folders, &Ports::new());
    let path = folder.0.join("test-drive");
    // The last command starts the broker; tests listen on any free port.
    assert!(set_up.ends_with("lapwing -c lapwing.toml\n") && set_up.contains("127.0.0.1:8883"), "{set_up}");
    let any =
        vec![("127.0.0.1:8883", "127.0.0.1:0".to_owned()), ("127.0.0.1:9883", "127.0.0.1:0".to_owned())];
    run(&path, &set_up.replace("lapwing -c lapwing.toml\n", ""), &any);
    let broker = Program::by(&["-c", "lapwing.toml"]).inside(&path).start();
    let ports: Ports =
        vec![("-p 8883", format!("-p {}", broker.port("mqtts"))), ("127.0.0.1:9883", broker.address("http"))];
    assert!(run(&path, tls, &ports).contains("home/temp 21.5"));
    let said = run(&path, rules, &ports);
    assert!(said.contains("allowed\n") && said.contains("denied\n"), "{said}");
    let said = run(&path, figures, &ports);
    assert!(said.contains("good") && said.contains("lapwing_messages_received_total 1"), "{said}");

    run(&path, away, &ports);
    let mut tracing =
        shell(&path, trace, &ports).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tracing.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("following"), "{line}");
    run(&path, publish, &ports);
    let mut story = String::new();
    tracing.stdout.take().unwrap().read_to_string(&mut story).unwrap();
    assert!(tracing.wait().unwrap().success());
    let lines: Vec<&str> = story.lines().collect();
    assert_eq!(lines.len(), 3, "{story}");
    assert!(
        lines[0].contains("kitchen → home/alarm QoS 1 5 B: accepted") && lines[0].contains("acl.toml:"),
        "{story}"
    );
    assert!(lines[1].ends_with("matched 1 session"), "{story}");
    // The page shows what is printed.
    let page = std::fs::read_to_string(root().join("docs/TEST-DRIVE.md")).unwrap();
    let end = lines[2].split_once("phone: ").unwrap().1;
    assert!(page.contains(&format!("phone: {end}\n")), "{story}");

    let said = run(&path, explain, &ports);
    assert!(said.contains("offline: the subscriber is offline"), "{said}");
    assert!(said.contains("1 offline") && said.contains("{reason=\"offline\"} 1"), "{said}");
    let said = run(&path, mended, &ports);
    assert!(said.contains("would wait until it is back") && said.contains("home/alarm fire"), "{said}");
}
