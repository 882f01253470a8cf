//! When the API server was last heard, kind by kind.
//!
//! kube tells of objects and of failures. Where nothing changes it tells of
//! nothing, whether the watch lives or its connection is dead: bookmarks, and
//! that a watch has lasted its time, end in it. So it is noted a level below,
//! where bytes come in.
//!
//! That a watch begins says little: who accepts it may still never tell of
//! anything. What counts is what comes in it, and an end in good order. The
//! latter, because there may be no bookmark: a server before 1.24, or one whose
//! etcd does not tell it of progress, sends none of a kind that does not change.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Frame, SizeHint};
use kube::client::Body;
use kube::{Client, Resource};
use tower::{BoxError, service_fn};

use super::slim;
use crate::metrics::{Kind, Watches};

/// A client that notes what comes in answer to its lists and watches.
pub(super) fn noted(client: &Client, watches: Watches) -> Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    let service = service_fn(move |request: Request<Body>| {
        let (client, watches, kind) = (client.clone(), watches.clone(), asked(request.uri().path()));
        async move {
            let response: Response<Body> = client.send(request).await?;
            // What refuses is no word about objects.
            let of = kind.filter(|_| response.status().is_success()).map(|kind| (kind, watches));
            Ok::<_, kube::Error>(response.map(|body| Noted { body, of }))
        }
    });
    Client::new(service, namespace)
}

/// The kind that a list or a watch is of; none where it is one object.
fn asked(path: &str) -> Option<Kind> {
    fn lists<K: Resource<DynamicType = ()>>(path: &str) -> bool {
        path == K::url_path(&(), None)
    }
    let kinds = [
        (Kind::Pod, lists::<slim::Pod> as fn(&str) -> bool),
        (Kind::Namespace, lists::<slim::Namespace>),
        (Kind::NetworkPolicy, lists::<slim::Policy>),
        (Kind::Node, lists::<slim::Node>),
    ];
    kinds.into_iter().find(|(_, lists)| lists(path)).map(|(kind, _)| kind)
}

/// The body of an answer, of which every piece is noted.
struct Noted {
    body: Body,
    of: Option<(Kind, Watches)>,
}

impl http_body::Body for Noted {
    type Data = <Body as http_body::Body>::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let (None | Some(Ok(_)), Some((kind, watches))) = (&frame, &self.of) {
            watches.heard(*kind);
        }
        // Wrapped once is enough: the outer client does it again.
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| match error {
                kube::Error::Service(error) => error,
                error => error.into(),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_watches_are_told_by_their_paths() {
        for (path, kind) in [
            ("/api/v1/pods", Some(Kind::Pod)),
            ("/api/v1/namespaces", Some(Kind::Namespace)),
            ("/apis/networking.k8s.io/v1/networkpolicies", Some(Kind::NetworkPolicy)),
            ("/api/v1/nodes", Some(Kind::Node)),
            ("/api/v1/nodes/node-1", None),
            ("/version", None),
        ] {
            assert_eq!(asked(path), kind, "{path}");
        }
    }
}
