//! The list that a watch begins with: streamed, or in pages.

use kube::Client;
use kube::api::ListParams;
use kube::core::Request;

use super::{Lister, WatchEnd};
use crate::source::kube::connection::failure::Failure;
use crate::source::kube::objects::decode::{self, WatchLine};
use crate::source::kube::objects::read::{Body, Items};
use crate::source::kube::objects::watched::{ObjectEvent, Watched};

/// How many objects a page of a list has.
const PAGE: u32 = 500;

/// How many streamed lists in a row may break off before pages are tried.
const BROKEN_STREAMS: u32 = 3;

impl<K: Watched> Lister<K> {
    /// Lists everything; the version to watch from, and the watch if it has begun.
    pub(super) async fn list(&mut self, client: &Client) -> Result<(String, Option<Body>), WatchEnd> {
        if self.common.streams && self.broken_streams < BROKEN_STREAMS {
            let (version, events) = self.stream_list(client).await?;
            return Ok((version, Some(events)));
        }
        let listed = self.list_in_pages(client).await;
        // The next list may be streamed, whether this one succeeded or not.
        self.broken_streams = 0;
        Ok((listed?, None))
    }

    /// Lists by a watch that begins with all objects. This spares the API server the
    /// memory for a whole list.
    async fn stream_list(&mut self, client: &Client) -> Result<(String, Body), WatchEnd> {
        // Without a version the list is as new as the store. With "0" it would be as old as a
        // server's cache may be, which can lack what another server has shown already.
        let mut events = self.open(client, "", true).await.inspect_err(|end| {
            // The feature is off (422), or the server does not know it (400).
            if matches!(end, WatchEnd::Failed(failure) if matches!(failure.code(), Some(400 | 422))) {
                self.common.streams = false;
            }
        })?;
        self.begin_list().await?;
        // Until it is complete it counts as one that broke off.
        self.broken_streams += 1;
        loop {
            match self.next(&mut events).await? {
                Some(WatchLine::Applied(item)) => self.send_item(item, ObjectEvent::Listed).await?,
                Some(WatchLine::Unchanged(identity)) => self.send(ObjectEvent::ListedAgain(identity)).await?,
                Some(WatchLine::Unnamed(error)) => self.send(ObjectEvent::Unnamed(error)).await?,
                Some(WatchLine::Bookmark(version, is_end)) => {
                    if is_end {
                        self.end_list().await?;
                        self.broken_streams = 0;
                        return Ok((version, events));
                    }
                }
                // A server whose etcd lacks RequestWatchProgress accepts, and then
                // refuses in the stream.
                Some(WatchLine::Error(status)) => {
                    self.broken_streams = BROKEN_STREAMS;
                    return Err(Failure::Refused(status).into());
                }
                // What was listed can go before the list is complete.
                Some(WatchLine::Deleted(identity)) => self.send_deleted(identity).await?,
                None => return Err(Failure::Incomplete.into()),
            }
        }
    }

    async fn list_in_pages(&mut self, client: &Client) -> Result<String, WatchEnd> {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector.clone_from(&self.field_selector);
        self.begin_list().await?;
        loop {
            let request = Request::new(K::url_path(&(), None)).list(&params).map_err(kube::Error::BuildRequest)?;
            let mut items = Items::new(Box::pin(client.request_stream(request).await?));
            self.answered().await?;
            let mut is_empty = true;
            loop {
                // A body that stands still is an error of the client's own after a while.
                let Some(piece) = items.next(&mut self.buffer).await.map_err(Failure::of_list)? else { break };
                is_empty = false;
                if let Some(identity) = self.unchanged.find(piece, self.buffer.bytes()) {
                    self.send(ObjectEvent::ListedAgain(identity)).await?;
                    continue;
                }
                match decode::item::<K>(&self.buffer, piece) {
                    Ok(item) => self.send_item(item, ObjectEvent::Listed).await?,
                    Err(error) => self.send(ObjectEvent::Unnamed(error)).await?,
                }
            }
            let metadata = items.envelope().map_err(kube::Error::SerdeError)?.metadata;
            let token = metadata.r#continue.filter(|token| !token.is_empty());
            if token.is_some() && (is_empty || token == params.continue_token) {
                return Err(Failure::Endless.into());
            }
            params.continue_token = token;
            if params.continue_token.is_none() {
                let version = metadata.resource_version.filter(|version| !version.is_empty());
                let version = version.ok_or(Failure::NoVersion)?;
                self.end_list().await?;
                return Ok(version);
            }
        }
    }

    async fn begin_list(&mut self) -> Result<(), WatchEnd> {
        self.unchanged.begin_list();
        self.send(ObjectEvent::ListBegins).await
    }

    async fn end_list(&mut self) -> Result<(), WatchEnd> {
        self.unchanged.end_list();
        self.send(ObjectEvent::ListEnds).await
    }
}
