//! One kind, watched for as long as the agent runs.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use kube::runtime::watcher::{self, Error, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_from};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// How long one watch may last before it is renewed from where it was, in
/// seconds. Longer ones would be cut off by the time that an answer may take; and
/// a streamed list has to be complete by then, or it begins again.
pub const WATCH_SECONDS: RangeInclusive<u32> = 10..=110;

/// How many objects a page of a list has.
const PAGE: u32 = 500;

/// The release from which an API server streams lists by default (feature gate
/// WatchList). An older one may ignore what it is asked and never say that the
/// list is complete.
const STREAMS_SINCE: (u32, u32) = (1, 32);

/// Whether an API server of this version is asked to stream its lists.
pub(super) fn streams_lists(major: &str, minor: &str) -> bool {
    // Some write `33+`.
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    matches!((number(major), number(minor)), (Some(major), Some(minor)) if (major, minor) >= STREAMS_SINCE)
}

/// All that happens to the objects of a kind, errors among it. Whatever fails
/// is tried again, less and less often.
///
/// One that says nothing for `seconds` and a few more is given up, so no
/// connection that died in silence goes unnoticed for longer.
///
/// A streamed list spares the API server the memory for a whole one. One that
/// refuses it although its version would have it gets pages instead.
pub(super) fn watch<K>(
    api: Api<K>,
    field_selector: Option<String>,
    seconds: u32,
    streaming: bool,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config =
        watcher::Config { field_selector, timeout: Some(seconds), page_size: Some(PAGE), ..watcher::Config::default() };
    let first = begin(&api, &config, streaming);
    let state = (api, config, streaming, first);
    let tried = stream::unfold(state, async |(api, config, streaming, mut events)| {
        let event = events.next().await?;
        let refused = streaming && event.as_ref().is_err_and(refuses_streaming);
        let events = if refused { begin(&api, &config, false) } else { events };
        Some((event, (api, config, streaming && !refused, events)))
    });
    tried.backoff(super::backoff())
}

fn begin<K>(api: &Api<K>, config: &watcher::Config, streaming: bool) -> BoxStream<'static, Result<Event<K>, Error>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = config.clone();
    watch_from(api.clone(), if streaming { config.streaming_lists() } else { config }).boxed()
}

/// Whether it says that a list cannot be streamed: 422 where the feature is
/// off, 400 of servers that know it less.
fn refuses_streaming(error: &Error) -> bool {
    matches!(error, Error::WatchStartFailed(kube::Error::Api(status)) if matches!(status.code, 400 | 422))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_streamed_from_the_release_that_has_it() {
        for (major, minor, streams) in [
            ("1", "36", true),
            ("1", "32", true),
            ("1", "33+", true),
            ("1", "31", false),
            ("1", "20", false),
            ("2", "0", true),
            ("", "", false),
        ] {
            assert_eq!(streams_lists(major, minor), streams, "{major}.{minor}");
        }
    }
}
