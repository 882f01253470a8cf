//! Each test on either backend.

/// Makes a test of each backend from a function that takes one, in a mode.
macro_rules! on_both_backends {
    ($($test:ident: $mode:ident),+ $(,)?) => {
        mod nft {
            use super::*;
            $(#[test] fn $test() { super::$test(Backend::Nft, Mode::$mode); })+
        }
        mod legacy {
            use super::*;
            $(#[test] fn $test() { super::$test(Backend::Legacy, Mode::$mode); })+
        }
    };
}
