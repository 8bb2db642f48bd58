//! Configurations: every text is one, or every mistake in it is told with its line.
#![no_main]

use lapwing::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::from_toml(text, "lapwing.toml") {
        Ok(config) => {
            // Of the files that it names nothing is read here; their names are.
            let _ = config.files();
            for listener in &config.listeners {
                let _ = (config.methods(listener), listener.name(), listener.label());
            }
        }
        Err(errors) => {
            let told = |error: &String| error.starts_with("lapwing.toml:");
            assert!(!errors.0.is_empty() && errors.0.iter().all(told), "{errors}");
        }
    }
    let mut config = Config::default();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let _ = config.apply_environment(lines.map(|(name, value)| (format!("LAPWING_{name}"), value.to_owned())));
});
