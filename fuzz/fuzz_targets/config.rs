//! The text of cluster.toml.

#![no_main]

use jumpgate::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok((config, _)) = Config::parse("cluster.toml", text, std::iter::empty()) {
        assert!(!config.nodes.is_empty() && config.cluster.min_copies >= 1);
    }
});
