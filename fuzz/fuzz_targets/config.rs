//! Configurations: every text is valid, or every error in it names its line.
#![no_main]

use lapwing::internals::config::{Config, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::from_toml(text, "lapwing.toml") {
        Ok(config) => {
            // Files that the configuration names are not read here.
            let _ = config.files();
            for listener in &config.listeners {
                let _ = (config.methods(listener), listener.title(), listener.label());
            }
        }
        Err(errors) => {
            let told = |error: &String| error.starts_with("lapwing.toml:");
            assert!(!errors.0.is_empty() && errors.0.iter().all(told), "{errors}");
        }
    }
    let lines = text.lines().filter_map(|line| line.split_once('='));
    // Files with values are not read either.
    let lines = lines.filter(|(name, _)| !name.ends_with("_FILE"));
    let environment = lines.map(|(name, value)| (format!("LAPWING_{name}"), value.to_owned())).collect();
    let _ = Source { environment, ..Source::default() }.read();
});
