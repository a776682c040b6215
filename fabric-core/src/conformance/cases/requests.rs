//! M5: requests and their answers.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::capabilities::Ability;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq, refused};
use crate::conformance::trial::Trial;
use crate::error::ErrorKind;
use crate::event::Event;
use crate::request::{Request, Requests};

/// M5a: of a hundred requests at a time each gets its own answer, and a thousand more do not wear
/// anything out.
pub async fn each_answer_reaches_its_caller(t: &Trial) -> Verdict {
    let topic = t.topic("echo");
    let server = t.another().await?;
    let echo = echo(server.responder("echo").serve(&topic).await?);
    for round in 0..11 {
        let asked = (0..100).map(|n| {
            let text = format!("question {round}.{n}");
            let (topic, fabric) = (topic.clone(), t.fabric());
            async move {
                let request = Event::to(&topic).text(&*text).header("n", n.to_string()).build()?;
                let id = request.id().clone();
                let reply = fabric.request(request).timeout(t.timing().patience).await?;
                ensure_eq!(reply.text()?, format!("re: {text}"), "the answer");
                ensure_eq!(reply.header("n"), Some(n.to_string().as_str()), "its header");
                ensure_eq!(reply.causation_id(), Some(&id), "what caused it");
                Ok(())
            }
        });
        join_all(asked).await.into_iter().collect::<Verdict<Vec<()>>>()?;
    }
    echo.abort();
    Ok(())
}

/// M5b: a responder's failure reaches the caller as `Remote`, with the reason; the next is answered.
pub async fn a_responders_failure_reaches_the_caller(t: &Trial) -> Verdict {
    let topic = t.topic("fail");
    let mut requests = t.fabric().responder("fails").serve(&topic).await?;
    let asking = t.fabric().request(Event::to(&topic).text("?")).timeout(t.timing().patience);
    let (answer, failed) = tokio::join!(asking, async {
        next(t, &mut requests).await?.fail("out of paper").await?;
        Ok::<_, Failure>(())
    });
    failed?;
    let error = refused(answer, ErrorKind::Remote)?;
    ensure!(error.to_string().contains("out of paper"), "the reason: {error}");
    let asking = t.fabric().request(Event::to(&topic).text("?")).timeout(t.timing().patience);
    let (answer, replied) = tokio::join!(asking, async {
        next(t, &mut requests).await?.reply(Event::to(&topic).text("!")).await?;
        Ok::<_, Failure>(())
    });
    replied?;
    ensure_eq!(answer?.text()?, "!", "the answer");
    Ok(())
}

/// M5c: a request that is not answered in time ends with `Timeout`; the late answer is dropped and
/// harms nobody.
pub async fn a_late_answer_is_dropped(t: &Trial) -> Verdict {
    let topic = t.topic("slow");
    let mut requests = t.fabric().responder("slow").serve(&topic).await?;
    let limit = Duration::from_millis(400);
    let since = Instant::now();
    let asking = t.fabric().request(Event::to(&topic).text("first")).timeout(limit);
    let (answer, request) = tokio::join!(asking, next(t, &mut requests));
    refused(answer, ErrorKind::Timeout)?;
    t.timed(since, limit, limit)?;
    let late = request?;
    let asking = t.fabric().request(Event::to(&topic).text("second"));
    let (answer, replied) = tokio::join!(asking.timeout(t.timing().patience), async {
        // Whether the late answer is refused or lost on the way is the broker's choice.
        let _ = late.reply(Event::to(&topic).text("too late")).await;
        let request = next(t, &mut requests).await?;
        ensure_eq!(request.text()?, "second", "the next request");
        request.reply(Event::to(&topic).text("in time")).await?;
        Ok(())
    });
    replied?;
    ensure_eq!(answer?.text()?, "in time", "the answer");
    Ok(())
}

/// M5d: a request that nobody answers fails at once with `NoResponders`, before anybody came and
/// after everybody went; it was certainly not handled.
pub async fn a_request_without_responders_fails_at_once(t: &Trial) -> Verdict {
    let topic = t.topic("nobody");
    // A subscriber is no responder.
    let watcher = if t.can(Ability::FanOut) {
        let subscription = t.fabric().subscribe(&topic).await?;
        Some(t.reader(subscription, "watcher", "watcher"))
    } else {
        None
    };
    for round in 0..2 {
        let since = Instant::now();
        let asked = t.fabric().request(Event::to(&topic).text("?")).timeout(t.timing().patience);
        refused(asked.await, ErrorKind::NoResponders)?;
        t.timed(since, Duration::ZERO, Duration::ZERO)?;
        if round == 0 {
            let echo = echo(t.fabric().responder("echo").serve(&topic).await?);
            t.fabric().request(Event::to(&topic).text("?")).timeout(t.timing().patience).await?;
            echo.abort();
            // The responder is gone once its task has dropped it.
            let _ = echo.await;
        }
    }
    if let Some(mut watcher) = watcher {
        watcher.quiet().await?;
    }
    Ok(())
}

/// M5e: responders of one name share the requests; each is answered once, whoever takes it.
pub async fn responders_of_one_name_share(t: &Trial) -> Verdict {
    let topic = t.topic("share");
    let second = t.another().await?;
    let (count, mut counted) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for (n, fabric) in [t.fabric(), &second, t.fabric()].into_iter().enumerate() {
        let mut requests = fabric.responder("pool").serve(&topic).await?;
        let count = count.clone();
        tasks.push(tokio::spawn(async move {
            while let Some(Ok(request)) = requests.recv().await {
                let _ = count.send((n, request.id().to_string()));
                let reply = Event::to(request.topic()).text("done");
                let _ = request.reply(reply).await;
            }
        }));
    }
    let asked = (0..150)
        .map(|_| t.fabric().request(Event::to(&topic).text("work")).timeout(t.timing().patience));
    for reply in join_all(asked).await {
        reply?;
    }
    tasks.iter().for_each(JoinHandle::abort);
    let mut handled = Vec::new();
    while let Ok(one) = counted.try_recv() {
        handled.push(one);
    }
    ensure_eq!(handled.len(), 150, "how often requests were handled");
    let ids: std::collections::HashSet<&String> = handled.iter().map(|(_, id)| id).collect();
    ensure_eq!(ids.len(), 150, "how many different requests were handled");
    let workers: std::collections::HashSet<usize> = handled.iter().map(|(n, _)| *n).collect();
    ensure!(workers.len() > 1, "only one of three did all the work");
    Ok(())
}

/// M5f: a responder answers by pattern, and requests never reach the subscribers of their topic.
pub async fn requests_travel_outside_of_topics(t: &Trial) -> Verdict {
    let topic = t.topic("rpc.sum.v1");
    let mut watcher = t.reader(t.fabric().subscribe(t.pattern("rpc.#")).await?, "plain", "watcher");
    let echo = echo(t.fabric().responder("echo").serve(t.pattern("rpc.*.v1")).await?);
    let asked = t.fabric().request(Event::to(&topic).text("1+1")).timeout(t.timing().patience);
    ensure_eq!(asked.await?.text()?, "re: 1+1", "the answer");
    let unmatched = Event::to(t.topic("rpc.sum.v2")).text("?");
    let unanswered = t.fabric().request(unmatched).timeout(t.timing().quiet).await;
    match unanswered {
        Err(error) => ensure!(
            matches!(error.kind(), ErrorKind::NoResponders | ErrorKind::Timeout),
            "nobody answers this: {error:#}"
        ),
        Ok(reply) => return Err(Failure::new(format!("nobody answers this: {reply:?}"))),
    }
    watcher.quiet().await?;
    echo.abort();
    Ok(())
}

/// M5g: a request that its responder drops unanswered leaves the caller to its timeout.
pub async fn a_dropped_request_runs_into_its_timeout(t: &Trial) -> Verdict {
    let topic = t.topic("drops");
    let mut requests = t.fabric().responder("drops").serve(&topic).await?;
    let limit = Duration::from_millis(300);
    let since = Instant::now();
    let asking = t.fabric().request(Event::to(&topic).text("?")).timeout(limit);
    let (answer, request) = tokio::join!(asking, async { next(t, &mut requests).await.map(drop) });
    request?;
    refused(answer, ErrorKind::Timeout)?;
    t.timed(since, limit, limit)
}

async fn next(t: &Trial, requests: &mut Requests) -> Verdict<Request> {
    match t.within("a request", requests.recv()).await? {
        Some(request) => Ok(request?),
        None => Err(Failure::new("the responder was taken away")),
    }
}

/// Answers with the same text and headers, and says `re: `.
fn echo(mut requests: Requests) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(Ok(request)) = requests.recv().await {
            let text = request.text().map(|text| format!("re: {text}")).unwrap_or_default();
            let reply = Event::to(request.topic()).text(text).headers(request.headers().clone());
            let _ = request.reply(reply).await;
        }
    })
}
