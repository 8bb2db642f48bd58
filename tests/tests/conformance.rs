//! Plays every dialogue of `tests/cases/conformance/` in every version it names, one test each.

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases/conformance");
    let mut trials = Vec::new();
    for case in lapwing_tests::script::load(folder.as_ref()) {
        for version in case.versions.clone() {
            let case = case.clone();
            let name = format!(
                "{}::{}::v{}",
                case.file.trim_end_matches(".case"),
                case.name.replace(' ', "_"),
                version.replace('.', "_")
            );
            trials.push(Trial::test(name, move || {
                lapwing_tests::script::play(&case, &version).map_err(Failed::from)
            }));
        }
    }
    assert!(trials.len() > 100, "the cases are there");
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
