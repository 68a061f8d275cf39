use std::sync::atomic::AtomicUsize;

use tokio::sync::Semaphore;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Failed {
    Outage,
    Refused,
    Deadline,
}

impl Failing for Failed {
    fn is_transient(&self) -> bool {
        *self != Self::Refused
    }

    fn is_definite_refusal(&self) -> bool {
        *self == Self::Refused
    }

    fn too_late(_: Duration) -> Self {
        Self::Deadline
    }
}

/// A vault that answers with what was last put into it, and counts.
struct Upstream {
    answer: Mutex<Result<&'static str, Failed>>,
    asked: AtomicUsize,
    latency: Duration,
}

impl Upstream {
    fn new(answer: &'static str) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(Ok(answer)),
            asked: AtomicUsize::new(0),
            latency: Duration::from_millis(20),
        })
    }

    fn asker(
        self: &Arc<Self>,
    ) -> impl Fn(Urgency) -> BoxFuture<'static, Result<&'static str, Failed>> + use<> {
        let upstream = Arc::clone(self);
        move |_| {
            let upstream = Arc::clone(&upstream);
            async move {
                upstream.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(upstream.latency).await;
                *upstream.answer.lock()
            }
            .boxed()
        }
    }

    fn set(&self, answer: Result<&'static str, Failed>) {
        *self.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `get` takes")]
fn key(identity: &str) -> Option<Key> {
    Some(Key { identity: identity.into(), vault: "https://kv1".into(), object: "/secrets/n/".into() })
}

fn wanted(max_age: u64, stale: u64) -> Wanted {
    Wanted {
        max_age: Duration::from_secs(max_age),
        stale_if_error: Duration::from_secs(stale),
        priority: Priority::Mount,
        deadline: Instant::now() + Duration::from_mins(1),
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

type Store = Arc<Cache<&'static str, Failed>>;

#[tokio::test(start_paused = true)]
async fn a_burst_asks_once() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    let all = futures::future::join_all((0..250).map(|_| cache.get(key("a"), wanted(5, 0), &ask))).await;
    assert!(all.iter().all(|served| served.as_ref().is_ok_and(|served| served.held.value == "v")));
    assert_eq!(upstream.asked(), 1);
    // Within the age it is still good, after it not.
    assert!(cache.get(key("a"), wanted(5, 0), &ask).await.is_ok());
    assert_eq!(upstream.asked(), 1);
    pass(6).await;
    assert!(cache.get(key("a"), wanted(5, 0), &ask).await.is_ok());
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_identity_never_gets_the_value() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("secret of a"));
    let ask = upstream.asker();
    let _lease = cache.get(key("a"), wanted(60, 60), &ask).await.map(|served| served.held);
    let other = Upstream::new("of b");
    other.set(Err(Failed::Outage));
    let refused = cache.get(key("b"), wanted(60, 60), other.asker()).await.map(|served| served.held.value);
    assert_eq!(refused, Err(Failed::Outage));
    // Nor while it is being fetched.
    let cache: Store = Cache::new();
    let (first, second) = tokio::join!(
        cache.get(key("a"), wanted(60, 60), &ask),
        cache.get(key("b"), wanted(60, 60), other.asker())
    );
    assert!(first.is_ok() && second.is_err());
    // Without an identity nothing is shared either way.
    let before = upstream.asked();
    for _ in 0..3 {
        assert!(cache.get(None, wanted(60, 60), &ask).await.is_ok());
    }
    assert_eq!(upstream.asked(), before + 3);
}

#[tokio::test(start_paused = true)]
async fn zero_age_always_asks() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    let (first, second) =
        tokio::join!(cache.get(key("a"), wanted(0, 0), &ask), cache.get(key("a"), wanted(0, 0), &ask));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn values_live_as_long_as_they_are_held() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    let lease = cache.get(key("a"), wanted(60, 0), &ask).await.map(|served| served.held);
    assert_eq!(cache.len(), 1);
    drop(lease);
    assert_eq!(cache.len(), 0);
    assert!(cache.get(key("a"), wanted(60, 0), &ask).await.is_ok());
    assert_eq!(upstream.asked(), 2, "nobody held it, so it was forgotten");
    // An older value's end does not take its successor along.
    let old = cache.get(key("a"), wanted(0, 0), &ask).await.map(|served| served.held);
    let new = cache.get(key("a"), wanted(0, 0), &ask).await.map(|served| served.held);
    drop(old);
    assert_eq!(cache.len(), 1);
    assert!(cache.get(key("a"), wanted(60, 0), &ask).await.is_ok());
    assert_eq!(upstream.asked(), 4);
    drop(new);
    assert_eq!(cache.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_are_shared_but_not_kept() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    upstream.set(Err(Failed::Refused));
    let ask = upstream.asker();
    let all = futures::future::join_all((0..50).map(|_| cache.get(key("a"), wanted(5, 0), &ask))).await;
    assert!(all.into_iter().all(|served| served.is_err_and(|failed| failed == Failed::Refused)));
    assert_eq!(upstream.asked(), 1);
    assert_eq!(cache.len(), 0);
    upstream.set(Ok("v"));
    assert!(cache.get(key("a"), wanted(5, 0), &ask).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_stands_in_for_an_outage_within_bounds() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    let _lease = cache.get(key("a"), wanted(5, 0), &ask).await.map(|served| served.held);
    pass(30).await;
    upstream.set(Err(Failed::Outage));
    let served = cache
        .get(key("a"), wanted(5, 60), &ask)
        .await
        .map(|served| (served.held.value, served.stale.is_some()));
    assert_eq!(served, Ok(("v", true)));
    let off = cache.get(key("a"), wanted(5, 0), &ask).await.map(|served| served.held.value);
    assert_eq!(off, Err(Failed::Outage), "off by default");
    pass(60).await;
    let old = cache.get(key("a"), wanted(5, 60), &ask).await.map(|served| served.held.value);
    assert_eq!(old, Err(Failed::Outage), "too old by now");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_use_of_older_values() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    let _lease = cache.get(key("a"), wanted(5, 0), &ask).await.map(|served| served.held);
    pass(10).await;
    upstream.set(Err(Failed::Refused));
    let refused = cache.get(key("a"), wanted(5, 3600), &ask).await.map(|served| served.held.value);
    assert_eq!(refused, Err(Failed::Refused));
    upstream.set(Err(Failed::Outage));
    let outage = cache.get(key("a"), wanted(5, 3600), &ask).await.map(|served| served.held.value);
    assert_eq!(outage, Err(Failed::Outage), "a right once lost does not come back by an outage");
    assert_eq!(
        cache.get(key("a"), wanted(3600, 3600), &ask).await.map(|served| served.held.value),
        Err(Failed::Outage)
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_has_more_time_asks_again() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let slow = Arc::new(Semaphore::new(0));
    let first = {
        let slow = Arc::clone(&slow);
        move |_: Urgency| {
            let slow = Arc::clone(&slow);
            async move {
                let _ = tokio::time::timeout(Duration::from_secs(1), slow.acquire()).await;
                Err(Failed::Deadline)
            }
            .boxed()
        }
    };
    let short = Wanted { deadline: Instant::now() + Duration::from_secs(1), ..wanted(30, 0) };
    let (hasty, patient) = tokio::join!(
        cache.get(key("a"), short, &first),
        cache.get(key("a"), wanted(30, 0), upstream.asker())
    );
    assert!(hasty.is_err_and(|failed| failed == Failed::Deadline));
    assert!(patient.is_ok());
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_outlives_all_but_the_last_who_waits() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    {
        let mut gone = Box::pin(cache.get(key("a"), wanted(5, 0), &ask));
        assert!(futures::poll!(&mut gone).is_pending());
        assert_eq!(cache.len(), 1);
        let mut stays = Box::pin(cache.get(key("a"), wanted(5, 0), &ask));
        assert!(futures::poll!(&mut stays).is_pending());
        drop(gone);
        assert!(stays.await.is_ok());
        assert_eq!(upstream.asked(), 1);
    }
    {
        let mut alone = Box::pin(cache.get(key("a"), wanted(5, 0), &ask));
        assert!(futures::poll!(&mut alone).is_pending());
    }
    assert_eq!(cache.len(), 0, "dropped with its only waiter");
}

/// Everything at once on several threads: the locks must neither cross nor leave anything behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_leave_nothing_behind() {
    let cache: Store = Cache::new();
    let tasks = (0..16u64).map(|task| {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move {
            for round in 0..200u64 {
                let ask = |_: Urgency| {
                    async move {
                        tokio::task::yield_now().await;
                        if round % 7 == 0 { Err(Failed::Refused) } else { Ok("v") }
                    }
                    .boxed()
                };
                let identity = format!("{}", (task + round) % 3);
                let wanted = Wanted { max_age: Duration::from_secs(round % 2), ..wanted(0, round % 3) };
                let mut waiting = Box::pin(cache.get(key(&identity), wanted, ask));
                if round % 5 == 0 {
                    // Some leave before the answer.
                    let _ = futures::poll!(&mut waiting);
                } else {
                    let _ = waiting.await;
                }
            }
        })
    });
    for ended in futures::future::join_all(tasks).await {
        ended.unwrap();
    }
    assert_eq!(cache.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_not_waited_for_with_an_older_value_at_hand() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let _lease = cache.get(key("a"), wanted(5, 0), upstream.asker()).await.map(|served| served.held);
    pass(30).await;
    let hanging = |_: Urgency| std::future::pending().boxed();
    let began = Instant::now();
    let served = cache.get(key("a"), wanted(5, 60), hanging).await.map(|served| served.stale);
    assert_eq!(served, Ok(Some(Failed::Deadline)));
    assert_eq!(began.elapsed(), PATIENCE);
    // Nobody but whoever accepts an older value gives up early.
    let strict = cache.get(key("a"), wanted(5, 0), hanging).await.map(|served| served.stale);
    assert_eq!(strict, Err(Failed::Deadline));
    assert!(began.elapsed() > Duration::from_mins(1));
}

#[tokio::test(start_paused = true)]
async fn rotations_do_not_look_for_the_same_trouble_again_and_again() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let ask = upstream.asker();
    let rotation = || Wanted { priority: Priority::Rotation, ..wanted(120, 0) };
    let lease = cache.get(key("a"), rotation(), &ask).await.map(|served| served.held);
    pass(121).await;
    upstream.set(Err(Failed::Outage));
    for _ in 0..100 {
        let failed = cache.get(key("a"), rotation(), &ask).await.map(|served| served.held.value);
        assert_eq!(failed, Err(Failed::Outage));
    }
    assert_eq!(upstream.asked(), 2);
    upstream.set(Ok("w"));
    pass(20).await;
    assert!(cache.get(key("a"), rotation(), &ask).await.is_err(), "not yet");
    // A pod that is to be started does look.
    let mount = cache.get(key("a"), wanted(5, 0), &ask).await.map(|served| served.held);
    assert!(mount.is_ok_and(|held| held.value == "w"));
    assert_eq!(upstream.asked(), 3);
    assert!(cache.get(key("a"), rotation(), &ask).await.is_ok(), "the trouble is over");
    drop(lease);
    let _lease = cache.get(key("a"), rotation(), &ask).await.map(|served| served.held);
    // Half of a short interval is less.
    let hasty = || Wanted { max_age: Duration::from_secs(2), ..rotation() };
    upstream.set(Err(Failed::Outage));
    pass(3).await;
    assert!(cache.get(key("a"), hasty(), &ask).await.is_err());
    upstream.set(Ok("x"));
    pass(1).await;
    assert!(cache.get(key("a"), hasty(), &ask).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_joins_a_rotations_request_makes_it_urgent() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let seen = Arc::new(Mutex::new(None));
    let ask = |urgency: Urgency| {
        *seen.lock() = Some(urgency.clone());
        upstream.asker()(urgency)
    };
    let rotation = Wanted { priority: Priority::Rotation, ..wanted(5, 0) };
    let mut waiting = Box::pin(cache.get(key("a"), rotation, ask));
    assert!(futures::poll!(&mut waiting).is_pending());
    let high = || seen.lock().as_ref().is_some_and(Urgency::is_high);
    assert!(!high());
    let (_, joined) = tokio::join!(waiting, cache.get(key("a"), wanted(5, 0), upstream.asker()));
    assert!(joined.is_ok() && high());
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_older_value_serves_at_once_where_it_is_known_that_nobody_can_be_asked() {
    let (cache, upstream): (Store, _) = (Cache::new(), Upstream::new("v"));
    let instead = |max_age, stale| {
        let key = key("a").unwrap();
        cache.instead(&key, wanted(max_age, stale), Failed::Outage).map(|served| served.held.value)
    };
    assert_eq!(instead(5, 60), None, "there is none");
    let _lease = cache.get(key("a"), wanted(5, 0), upstream.asker()).await.map(|served| served.held);
    pass(30).await;
    assert_eq!(instead(5, 60), Some("v"));
    assert_eq!(instead(0, 60), Some("v"));
    assert_eq!(instead(60, 60), None, "it is fresh, which nobody has to be told");
    assert_eq!(instead(5, 0), None, "off");
    assert_eq!(instead(5, 20), None, "too old");
    assert_eq!(upstream.asked(), 1);
}
