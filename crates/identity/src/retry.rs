//! Asking again, with an end to patience.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::Error;

/// How often and how long a token service is asked.
pub(crate) struct Patience {
    /// After this an attempt counts as unanswered.
    pub(crate) per_try: Duration,
    /// After this nothing is begun any more. Attempts and waits together never take longer.
    pub(crate) total: Duration,
    /// Wait before the n-th repetition (from 0), given the status of the failed attempt; `None` ends it.
    pub(crate) wait: fn(n: u32, status: Option<u16>) -> Option<Duration>,
}

/// An attempt that brought no token.
pub(crate) enum Attempt {
    /// Asking again would bring the same.
    Final(Error),
    /// Worth asking again.
    Again {
        /// HTTP status, if there was an answer.
        status: Option<u16>,
        /// What happened, for the reader of the final error.
        reason: String,
        /// The service's own wish.
        retry_after: Option<Duration>,
    },
}

/// What is known when patience has ended.
pub(crate) struct Exhausted {
    pub(crate) attempts: u32,
    pub(crate) elapsed: Duration,
    pub(crate) last: String,
    /// HTTP status of the last attempt, if there was an answer.
    pub(crate) status: Option<u16>,
    pub(crate) retry_after: Option<Duration>,
}

/// Why [`run`] gives no token.
pub(crate) enum Ending {
    Final(Error),
    Exhausted(Exhausted),
}

/// Runs attempts until one succeeds, one is final, or patience ends. A service's `Retry-After` lengthens a
/// wait but never shortens it; one that goes beyond the total ends it at once, since waiting would be in
/// vain.
pub(crate) async fn run<T, Future>(
    patience: &Patience,
    mut attempt: impl FnMut() -> Future,
) -> Result<T, Ending>
where
    Future: std::future::Future<Output = Result<T, Attempt>>,
{
    let start = Instant::now();
    let mut attempts = 0;
    loop {
        let left = patience.total.saturating_sub(start.elapsed());
        let per_try = patience.per_try.min(left);
        let outcome = timeout(per_try, attempt()).await.unwrap_or_else(|_| {
            Err(Attempt::Again {
                status: None,
                reason: format!("no answer within {:.1} s", per_try.as_secs_f64()),
                retry_after: None,
            })
        });
        attempts += 1;
        let (status, last, retry_after) = match outcome {
            Ok(token) => return Ok(token),
            Err(Attempt::Final(error)) => return Err(Ending::Final(error)),
            Err(Attempt::Again { status, reason, retry_after }) => (status, reason, retry_after),
        };
        let elapsed = start.elapsed();
        let wait =
            (patience.wait)(attempts - 1, status).map(|wait| wait.max(retry_after.unwrap_or_default()));
        match wait {
            Some(wait) if elapsed + wait < patience.total => tokio::time::sleep(wait).await,
            _ => return Err(Ending::Exhausted(Exhausted { attempts, elapsed, last, status, retry_after })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const PATIENCE: Patience = Patience {
        per_try: Duration::from_secs(10),
        total: Duration::from_mins(1),
        wait: |n, _| Some(Duration::from_secs(1 << n)),
    };

    fn again(retry_after: Option<u64>) -> Attempt {
        Attempt::Again {
            status: Some(503),
            reason: "busy".into(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    async fn times(answer: impl Fn(usize) -> Attempt) -> (Vec<u64>, Duration) {
        let start = Instant::now();
        let seen = RefCell::new(Vec::new());
        let ending = run::<(), _>(&PATIENCE, || {
            seen.borrow_mut().push(start.elapsed().as_secs());
            let attempt = answer(seen.borrow().len());
            async { Err(attempt) }
        })
        .await;
        assert!(matches!(ending, Err(Ending::Exhausted(_) | Ending::Final(_))));
        (seen.into_inner(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_end_before_the_total() {
        assert_eq!(times(|_| again(None)).await.0, [0, 1, 3, 7, 15, 31]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_services_wish_lengthens_but_never_shortens() {
        assert_eq!(times(|n| again(Some(if n == 1 { 20 } else { 0 }))).await.0, [0, 20, 22, 26, 34, 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_beyond_the_total_ends_it_at_once() {
        let (seen, took) = times(|_| again(Some(3600))).await;
        assert_eq!((seen.len(), took), (1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_cut_off_and_counts_as_an_attempt() {
        let start = Instant::now();
        let Err(Ending::Exhausted(end)) =
            run::<(), _>(&PATIENCE, std::future::pending::<Result<(), Attempt>>).await
        else {
            panic!("nobody answered")
        };
        assert_eq!(start.elapsed(), PATIENCE.total);
        assert_eq!((end.attempts, end.last.as_str()), (5, "no answer within 5.0 s"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_answer_is_final() {
        assert_eq!(times(|_| Attempt::Final(Error::internal("x"))).await.0, [0]);
    }
}
