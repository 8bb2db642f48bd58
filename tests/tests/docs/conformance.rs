//! Keeps `docs/CONFORMANCE.md` true.

use std::path::Path;

#[test]
fn every_server_statement_has_a_test_and_the_document_lists_it() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).canonicalize().unwrap();
    let (document, wrong) = lapwing_tests::table::make(&root);
    let path = root.join("docs/CONFORMANCE.md");
    if std::env::var_os("LAPWING_UPDATE").is_some() {
        std::fs::write(&path, &document).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == document, "docs/CONFORMANCE.md is not up to date: run this test with LAPWING_UPDATE=1");
}
