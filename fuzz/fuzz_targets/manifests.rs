//! See [`npc_agent::fuzz::manifests`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| npc_agent::fuzz::manifests(data));
