//! Answers become confirms: those that are known, and those that are to come.

use fabric_core::{Confirms, Outcomes, Receipt, Result, RetryClass};
use tokio::sync::oneshot;

use crate::error;

/// What became of one event, or will tell.
#[derive(Debug)]
pub(crate) enum Answer {
    Known(Result<Receipt>),
    Coming(oneshot::Receiver<Result<Receipt>>),
}

impl Answer {
    async fn wait(self) -> Result<Receipt> {
        match self {
            Self::Known(result) => result,
            Self::Coming(answer) => answer.await.unwrap_or_else(|_| {
                // Whoever would have answered is gone, and the event may have been accepted.
                Err(error::closed().with_retry(RetryClass::Ambiguous))
            }),
        }
    }
}

/// The confirms of one event.
pub(crate) fn one(answer: Answer) -> Confirms {
    match answer {
        Answer::Known(result) => Confirms::ready(Outcomes::one(result)),
        coming => Confirms::pending(async move { Outcomes::one(coming.wait().await) }),
    }
}

/// The confirms of several, in order.
pub(crate) fn each(answers: Vec<Answer>) -> Confirms {
    if answers.iter().all(|answer| matches!(answer, Answer::Known(_))) {
        let known = answers.into_iter().filter_map(|answer| match answer {
            Answer::Known(result) => Some(result),
            Answer::Coming(_) => None,
        });
        return Confirms::ready(Outcomes::each(known));
    }
    Confirms::pending(async move {
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(answer.wait().await);
        }
        Outcomes::each(results)
    })
}

#[cfg(test)]
mod tests {
    use fabric_core::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn answers_keep_their_order_and_one_that_never_comes_is_ambiguous() {
        let (tell, coming) = oneshot::channel();
        let (gone, lost) = oneshot::channel();
        drop(gone);
        let known = || Answer::Known(Ok(Receipt::ACCEPTED));
        let answers = vec![known(), Answer::Coming(coming), Answer::Coming(lost)];
        let confirms = each(answers);
        tell.send(Ok(Receipt::unrouted())).unwrap();
        let results: Vec<Result<Receipt>> = confirms.await.into_vec();
        assert_eq!(results[0].as_ref().unwrap(), &Receipt::ACCEPTED);
        assert_eq!(results[1].as_ref().unwrap(), &Receipt::unrouted());
        let error = results[2].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, RetryClass::Ambiguous));
        assert!(one(known()).await.into_vec()[0].is_ok());
    }
}
