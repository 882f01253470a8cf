//! See [`npc_agent::fuzz::endpoints`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| npc_agent::fuzz::endpoints(data));
