//! From an HTTP request to its answer, by way of the faults.

use std::io;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request as HttpRequest, State as Extract};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;

use super::discovery;
use super::failure::Failure;
use super::fault::{Action, Answer};
use super::path::{ListOptions, Path, ResourcePath};
use super::read;
use super::resource::Verb;
use super::shared::{Request, Shared};
use super::watch::{self, WatchFaults};
use super::write::{self, PatchKind};

/// How much a request may bring: as much as the real server takes.
const BODY_LIMIT: usize = 3 << 20;

/// Answers any request.
pub(crate) async fn answer(Extract(shared): Extract<Arc<Shared>>, request: HttpRequest) -> Response {
    let path = Path::parse(request.uri().path());
    let options = Query::<ListOptions>::try_from_uri(request.uri()).map(|query| query.0);
    let verb = verb(request.method(), path.as_ref(), options.as_ref().ok());
    let number = shared.arrived(Request {
        resource: match &path {
            Some(Path::Objects(place)) => Some(place.resource),
            _ => None,
        },
        verb: verb.unwrap_or(Verb::Get),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        user_agent: text_of(&request, &header::USER_AGENT).to_owned(),
        code: None,
    });
    let token = text_of(&request, &header::AUTHORIZATION).strip_prefix("Bearer ").map(str::to_owned);
    let known = shared.settings().token.as_ref().is_none_or(|wanted| token.as_ref() == Some(wanted));
    let response = match (path, verb) {
        (Some(_), None) => Err(Failure::method_not_allowed()),
        (Some(Path::Version), _) => Ok(json(discovery::version().to_string())),
        (Some(Path::Health), _) => Ok(Response::new(Body::from("ok"))),
        _ if !known => Err(Failure::unauthorized()),
        (None, _) => Err(Failure::no_such_path()),
        (Some(Path::CoreVersions), _) => Ok(json(discovery::core_versions().to_string())),
        (Some(Path::Groups), _) => Ok(json(discovery::groups().to_string())),
        (Some(Path::Group(group)), _) => Ok(json(discovery::group(group).to_string())),
        (Some(Path::Resources(group)), _) => Ok(json(discovery::resources(group).to_string())),
        (Some(Path::Objects(place)), Some(verb)) => match options {
            Ok(options) => objects(&shared, &place, verb, &options, request).await,
            Err(error) => Err(Failure::bad_request(error.to_string())),
        },
    };
    let response = response.unwrap_or_else(|failure| refuse(&failure));
    shared.answered(number, response.status().as_u16());
    response
}

fn text_of<'a>(request: &'a HttpRequest, name: &header::HeaderName) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn verb(method: &Method, path: Option<&Path>, options: Option<&ListOptions>) -> Option<Verb> {
    let (named, status) = match path {
        Some(Path::Objects(place)) => (!place.name.is_empty(), place.status),
        _ => return (method == Method::GET).then_some(Verb::Get),
    };
    let on = |switch: fn(&ListOptions) -> &str| options.is_some_and(|options| ListOptions::is_on(switch(options)));
    match (method, named) {
        (&Method::GET, true) => Some(Verb::Get),
        (&Method::GET, false) if on(|o| &o.watch) && on(|o| &o.send_initial_events) => Some(Verb::StreamingList),
        (&Method::GET, false) if on(|o| &o.watch) => Some(Verb::Watch),
        (&Method::GET, false) if options.is_some_and(|o| !o.r#continue.is_empty()) => Some(Verb::Page),
        (&Method::GET, false) => Some(Verb::List),
        (&Method::POST, false) => Some(Verb::Create),
        (&Method::PUT, true) => Some(Verb::Update),
        (&Method::PATCH, true) => Some(Verb::Patch),
        (&Method::DELETE, true) if !status => Some(Verb::Delete),
        _ => None,
    }
}

async fn objects(
    shared: &Arc<Shared>,
    place: &ResourcePath,
    verb: Verb,
    options: &ListOptions,
    request: HttpRequest,
) -> Result<Response, Failure> {
    let mut faults = WatchFaults::default();
    let (mut torn, mut endless) = (false, false);
    for (fault, action) in shared.faults.strike(place.resource, verb) {
        shared.changes.announce();
        match action {
            Action::Fail(failure) => return Err(failure),
            Action::Forbid => return Err(Failure::forbidden(place.resource, verb)),
            Action::RefuseStreamingLists => {
                let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
                return Err(ListOptions::forbidden("sendInitialEvents", why));
            }
            Action::Expire if verb.is_watch() => faults.expired = true,
            Action::Expire => {
                return Err(Failure::expired("The resourceVersion for the provided list is too old."));
            }
            Action::Delay(delay) => tokio::time::sleep(delay).await,
            Action::Hold => shared.changes.until(|| !shared.faults.is_active(fault)).await,
            Action::Tear => torn = true,
            Action::WithholdBookmarks => faults.no_bookmarks = true,
            Action::Hang => faults.hangs = true,
            Action::BreakAfter(lines) => faults.lines_left = Some(lines),
            Action::Answer(answer) => return Ok(raw(answer)),
            Action::RefuseInStream(failure) => faults.refused = Some(failure),
            Action::ListNothing => faults.lists_nothing = true,
            Action::EndlessPages => endless = true,
        }
    }
    if verb.is_watch() {
        return watch::begin(shared, place, options, faults).map(json);
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_LIMIT).await.map_err(|error| Failure::bad_request(error.to_string()))?;
    let query = parts.uri.query().unwrap_or_default();
    let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if faults.lists_nothing || endless {
        let revision = shared.store.state().revision();
        return Ok(json(read::nothing(place, revision, endless)));
    }
    let mut state = shared.store.state();
    let made = match verb {
        Verb::Get => read::get(&state, place),
        Verb::List | Verb::Page => read::list(&state, place, options),
        Verb::Create => write::create(&mut state, place, &body),
        Verb::Update => write::update(&mut state, place, &body),
        Verb::Patch => write::patch(&mut state, place, patch_kind(media_type)?, &body),
        Verb::Delete => write::delete(&mut state, place, query, &body),
        Verb::Watch | Verb::StreamingList => Err(Failure::method_not_allowed()),
    };
    drop(state);
    if made.is_ok() {
        shared.changes.announce();
    }
    let mut response = json(if torn { cut_in_half(&made?) } else { made?.into() });
    if verb == Verb::Create {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// The first half of an answer, and then the end of the connection.
fn cut_in_half(answer: &str) -> Body {
    let half = answer.as_bytes()[..answer.len() / 2].to_vec();
    let half = futures::stream::once(async { Ok(half) });
    let end = futures::stream::once(async {
        // What was sent last is sent only while this task waits.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    Body::from_stream(futures::StreamExt::chain(half, end))
}

/// An answer that no API server gives.
fn raw(answer: Answer) -> Response {
    match answer {
        Answer::Empty => json(Body::empty()),
        Answer::Redirect => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::FOUND;
            let location = header::HeaderValue::from_static("https://login.example/");
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Answer::Page => Response::new(Body::from("<html>\n<body>Please sign in.</body>\n</html>\n")),
        Answer::Reset => {
            let end = futures::stream::once(async {
                tokio::task::yield_now().await;
                Err::<Vec<u8>, _>(io::Error::from(io::ErrorKind::ConnectionReset))
            });
            json(Body::from_stream(end))
        }
    }
}

fn patch_kind(media_type: Option<&str>) -> Result<PatchKind, Failure> {
    let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match media_type {
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/apply-patch+yaml" => Ok(PatchKind::Apply),
        _ => Err(Failure::unsupported_media_type()),
    }
}

fn json(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    let no_cache = header::HeaderValue::from_static("no-cache, private");
    response.headers_mut().insert(header::CACHE_CONTROL, no_cache);
    response
}

fn refuse(failure: &Failure) -> Response {
    let mut response = json(failure.status().to_string());
    *response.status_mut() = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
