//! What is done to an open stream from outside, on whichever replica it is: the id of a connection names its replica.
//!
//! A token that renews a stream does not travel: what it proves does, as a ticket, which is signed by the secret that the
//! replicas share.

use std::{sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    access,
    app::App,
    presence,
    problem::{Code, Problem},
};
use crate::{
    auth::Identity,
    config::Right,
    store::{AskError, StoreError},
    telemetry::CloseReason,
};

/// What shall be done.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// It goes on with what this ticket proves.
    Renew {
        /// Never told to anybody else, so it need not be used up.
        ticket: String,
    },
    /// It ends.
    Close,
}

#[derive(Serialize, Deserialize)]
struct Question {
    connection: String,
    order: Order,
}

/// How it went: nothing, or why not.
#[derive(Serialize, Deserialize)]
struct Answer {
    code: Option<String>,
    detail: String,
}

/// Sees to it that the stream of `connection` does as it is told.
pub(crate) async fn give(app: &Arc<App>, connection: &str, order: Order) -> Result<(), Problem> {
    let (replica, _) = connection.rsplit_once('-').ok_or_else(not_open)?;
    if replica == app.replica() {
        return obey(app, connection, order).await;
    }
    let question = Question {
        connection: connection.into(),
        order,
    };
    let question = serde_json::to_string(&question).expect("text with text keys is JSON");
    let answer = app.letters.ask(replica, &question).await;
    let answer = answer.map_err(|error| match error {
        AskError::Nobody => not_open(),
        AskError::Silent => StoreError::Timeout.into(),
        AskError::Busy => Problem::new(Code::StoreUnavailable, error.to_string()),
        AskError::Store(error) => error.into(),
    })?;
    let answer: Answer = serde_json::from_str(&answer).map_err(|_| {
        let detail = "the replica of the stream is of another version and was not understood";
        Problem::new(Code::Internal, detail)
    })?;
    let Some(code) = answer.code else {
        return Ok(());
    };
    let code = Code::ALL.into_iter().find(|known| known.as_str() == code);
    Err(Problem {
        shown: true,
        ..Problem::new(code.unwrap_or(Code::Internal), answer.detail)
    })
}

/// Does what another replica asks for; for [`crate::store::Letters::serve`].
pub(crate) fn answer(app: &Arc<App>, question: &str) -> BoxFuture<'static, String> {
    let app = app.clone();
    if let Some(counts) = presence::answer(&app, question) {
        return Box::pin(std::future::ready(counts));
    }
    let question: Result<Question, _> = serde_json::from_str(question);
    Box::pin(async move {
        let done = match question {
            Ok(question) => obey(&app, &question.connection, question.order).await,
            Err(_) => Err(Problem::new(
                Code::Internal,
                "the question was not understood",
            )),
        };
        let answer = match done {
            Ok(()) => Answer {
                code: None,
                detail: String::new(),
            },
            Err(problem) => Answer {
                code: Some(problem.code.as_str().into()),
                detail: problem.detail,
            },
        };
        serde_json::to_string(&answer).expect("text with text keys is JSON")
    })
}

/// The stream is one of this replica.
async fn obey(app: &Arc<App>, connection: &str, order: Order) -> Result<(), Problem> {
    match order {
        Order::Close => {
            let handle = app.streams.find(connection).ok_or_else(not_open)?;
            app.streams.close(&handle, CloseReason::Admin);
            Ok(())
        }
        Order::Renew { ticket } => {
            let tickets = app.tickets().await?;
            let (_, identity) = tickets
                .read(&ticket, SystemTime::now())
                .map_err(|denied| Problem::new(Code::Unauthorized, denied.to_string()))?;
            // A ticket knows a static token by name alone; what is known here is what a reload judges it by.
            let gone = || Problem::new(Code::Unauthorized, "the token is not valid any more");
            let identity = app.auth().current(&identity).ok_or_else(gone)?;
            renew(app, connection, identity)
        }
    }
}

fn renew(app: &App, connection: &str, identity: Identity) -> Result<(), Problem> {
    let handle = app.streams.find(connection).ok_or_else(not_open)?;
    if !Identity::same_subject(&handle.identity(), &identity) {
        let detail = "the stream belongs to another subject than this token";
        return Err(access::forbidden(detail.into()));
    }
    access::allowed(&app.auth(), &identity, Right::Subscribe, &handle.topics())?;
    app.streams.renew(&handle, Arc::new(identity));
    Ok(())
}

/// There is no such stream, or not any more.
fn not_open() -> Problem {
    Problem::new(
        Code::NotFound,
        "no stream with this connection id is open: the id is in the data of $open",
    )
}
