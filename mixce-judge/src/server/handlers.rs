//! The routes: who is asking, what is due, what is stored.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mixce_base::digest::{Digest as _, Sha256};

use super::form::{self, Filled};
use super::limits::{self, Buckets};
use super::{Link, pages};
use crate::error::Error;
use crate::store::{Answer, Judge, Saved, Store};
use crate::study::{Study, Task};

/// The state of the server.
#[derive(Debug)]
pub(super) struct App {
    study: Study,
    store: Mutex<Store>,
    judges: Vec<Judge>,
    /// Judges, from 0, by the digest of their token, so that a look-up takes no time that depends on a token.
    by_token: HashMap<[u8; 32], usize>,
    /// Whether only this machine can connect.
    pub(super) is_local: bool,
    pub(super) buckets: Buckets,
}

impl App {
    pub(super) fn new(study: Study, store: Store, judges: Vec<Judge>, is_local: bool) -> Self {
        let by_token =
            judges.iter().enumerate().map(|(judge, known)| (digest(&known.token), judge)).collect();
        Self { study, store: Mutex::new(store), judges, by_token, is_local, buckets: Buckets::default() }
    }

    /// The judge of a token, from 0.
    pub(super) fn judge_of(&self, token: &str) -> Option<usize> {
        self.by_token.get(&digest(token)).copied()
    }

    pub(super) fn links(&self, base: &str) -> Result<Vec<Link>, Error> {
        let link = |(judge, known): (usize, &Judge)| {
            Ok(Link {
                judge: judge + 1,
                name: known.name.clone(),
                url: format!("{base}/j/{}", known.token),
                answered: self.store().answered(judge + 1)?.len(),
                tasks: self.study.plan[judge].len(),
            })
        };
        self.judges.iter().enumerate().map(link).collect()
    }

    /// A transaction that was interrupted by a panic has been rolled back, so the store stays usable.
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The judge of a link, or a refusal.
    fn session(&self, token: &str) -> Result<Session<'_>, Problem> {
        let judge =
            self.judge_of(token).ok_or(Problem::new(StatusCode::FORBIDDEN, "This link is not valid."))?;
        let store = self.store();
        let answered = store.answered(judge + 1)?;
        let begun = store.judge(judge + 1)?.is_some_and(|judge| judge.begun);
        let tasks = &self.study.plan[judge];
        let due = tasks.iter().position(|task| !answered.contains(&task.item));
        let home = format!("/j/{token}");
        Ok(Session { store, number: judge + 1, home, begun, tasks, due, answered })
    }
}

/// A judge's state during one request.
struct Session<'a> {
    store: MutexGuard<'a, Store>,
    /// Judge, from 1.
    number: usize,
    home: String,
    begun: bool,
    tasks: &'a [Task],
    /// Place of the first task without an answer.
    due: Option<usize>,
    answered: HashSet<usize>,
}

impl Session<'_> {
    fn progress(&self) -> pages::Progress<'_> {
        pages::Progress { home: &self.home, answered: self.answered.len(), tasks: self.tasks.len() }
    }
}

/// A refused request.
struct Problem {
    status: StatusCode,
    message: String,
    /// Where to go on.
    onward: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), onward: None }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        tracing::error!("{error}");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The answer could not be read or stored. Tell the organiser, then reload.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        pages::problem(self.status, &self.message, self.onward.as_deref())
    }
}

type Reply = Result<Response, Problem>;

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/style.css", get(|| async { asset("text/css; charset=utf-8", include_str!("style.css")) }))
        .route("/keys.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("keys.js")) }))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .route("/j/{token}", get(instructions))
        .route("/j/{token}/begin", post(begin))
        .route("/j/{token}/task", get(task))
        .route("/j/{token}/task/{number}", post(answer))
        .fallback(|| async { pages::problem(StatusCode::NOT_FOUND, "There is no such page.", None) })
        .layer(DefaultBodyLimit::max(limits::MAX_BODY_BYTES))
        .layer(from_fn_with_state(app.clone(), limits::guard))
        .with_state(app)
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=600")], text).into_response()
}

async fn index(State(app): State<Arc<App>>) -> Reply {
    if !app.is_local {
        return Ok(pages::problem(StatusCode::OK, "Open the link that the organiser gave you.", None));
    }
    Ok(pages::index(&app.links("")?))
}

async fn instructions(State(app): State<Arc<App>>, Path(token): Path<String>) -> Reply {
    let session = app.session(&token)?;
    Ok(pages::instructions(&session.progress(), app.study.header.scale, session.begun))
}

async fn begin(State(app): State<Arc<App>>, Path(token): Path<String>) -> Reply {
    let session = app.session(&token)?;
    session.store.begin(session.number, now_ms())?;
    Ok(see_other(&format!("{}/task", session.home)))
}

async fn task(State(app): State<Arc<App>>, Path(token): Path<String>) -> Reply {
    let session = app.session(&token)?;
    if !session.begun {
        return Ok(see_other(&session.home));
    }
    let Some(due) = session.due else { return Ok(pages::done(&session.progress())) };
    session.store.show(session.number, session.tasks[due].item, now_ms())?;
    Ok(show(&app, &session, due, StatusCode::OK, None))
}

async fn answer(
    State(app): State<Arc<App>>,
    Path((token, number)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    let session = app.session(&token)?;
    let onward = format!("{}/task", session.home);
    let refuse =
        |status, message: &str| Problem { onward: Some(onward.clone()), ..Problem::new(status, message) };
    let place =
        number.parse().ok().and_then(|n: usize| n.checked_sub(1)).filter(|n| *n < session.tasks.len());
    let place = place.ok_or_else(|| refuse(StatusCode::FORBIDDEN, "This pair is not among yours."))?;
    if !is_form(&headers) {
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Use the form of the page."));
    }
    let filled = form::parse(&body, app.study.header.scale);
    let filled = filled.map_err(|message| refuse(StatusCode::BAD_REQUEST, &message))?;
    let is_answered = session.answered.contains(&session.tasks[place].item);
    if !is_answered && (!session.begun || session.due != Some(place)) {
        return Err(refuse(StatusCode::CONFLICT, "It is not yet this pair's turn."));
    }
    let Some(choice) = filled.choice else {
        let status = if is_answered { StatusCode::CONFLICT } else { StatusCode::UNPROCESSABLE_ENTITY };
        return Ok(show(&app, &session, place, status, Some(&filled)));
    };
    let answer = Answer {
        judge: session.number,
        item: session.tasks[place].item,
        choice,
        reasons: filled.reasons,
        note: filled.note,
        shown_ms: None,
        answered_ms: now_ms(),
    };
    match session.store.answer(&answer)? {
        Saved::Yes => Ok(see_other(&onward)),
        Saved::Different => Err(refuse(
            StatusCode::CONFLICT,
            "You have already given another answer for this pair, which stays.",
        )),
    }
}

/// The page of a task; `filled` is what was sent without a choice.
fn show(
    app: &App,
    session: &Session<'_>,
    place: usize,
    status: StatusCode,
    filled: Option<&Filled>,
) -> Response {
    let task = session.tasks[place];
    let item = &app.study.items[task.item];
    let (a, b) = if task.swapped { (&item.second, &item.first) } else { (&item.first, &item.second) };
    let pair = pages::Pair { number: place + 1, prompt: &item.prompt, a: &a.text, b: &b.text };
    pages::task(&session.progress(), app.study.header.scale, &pair, status, filled)
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    kind.split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

/// Sends the browser to another page, with GET.
fn see_other(path: &str) -> Response {
    match HeaderValue::from_str(path) {
        Ok(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
        // Tokens are plain ASCII, so this does not happen.
        Err(_) => pages::problem(StatusCode::BAD_REQUEST, "This link is not valid.", None),
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
