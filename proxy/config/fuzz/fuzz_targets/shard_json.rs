#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postern_proxy_config::fuzzing::shard_json(data));
