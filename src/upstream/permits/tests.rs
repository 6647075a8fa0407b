use std::time::Duration;

use super::queue::MAX_WAITING;
use super::share::MAX_OWN;
use super::*;
use crate::budget::{Budget, ConnectionCounts};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

/// Names clients of one budget by a number each.
fn clients(count: u8) -> Vec<Requester> {
    let budget = Budget::new(1 << 20);
    (0..count)
        .map(|nth| Requester::Client(budget.client([192, 0, 2, nth].into()), ConnectionCounts::default()))
        .collect()
}

/// Names another connection of a client.
fn again(requester: &Requester) -> Requester {
    match requester {
        Requester::Gate => Requester::Gate,
        Requester::Client(client, _) => Requester::Client(client.clone(), ConnectionCounts::default()),
    }
}

/// Takes permits until there is none for a requester.
fn take_all(permits: &Arc<ConnectionPermits>, requester: &Requester) -> Vec<(ConnectionPermit, ConnectionUsage)> {
    // Each over a connection of its own, as with HTTP/1.
    let take = || match permits.try_acquire(&again(requester)) {
        Admission::Permit(permit) => Some((permit, permits.begin_usage(again(requester)))),
        Admission::Queued(_) | Admission::Refused => None,
    };
    std::iter::from_fn(take).collect()
}

#[track_caller]
fn check(count: usize, expected: &[usize]) {
    let permits = ConnectionPermits::new(count, UpstreamName::App);
    let mut taken: Vec<_> = clients(expected.len() as u8 - 1).iter().map(|client| take_all(&permits, client)).collect();
    taken.push(take_all(&permits, &Requester::Gate));
    let taken: Vec<_> = taken.iter().map(Vec::len).collect();
    assert_eq!(taken, expected, "of {count}");
}

#[test]
fn a_client_leaves_some_for_the_next_and_the_gate_has_the_last() {
    check(1, &[1, 0]);
    check(2, &[2, 0]);
    check(7, &[7, 0]);
    check(8, &[7, 1, 0]);
    check(1000, &[835, 105, 13, 4, 4, 4, 4, 4, 4, 4, 4, 0, 15]);
    check(100, &[84, 11, 1, 1, 1, 1, 1]);
}

#[test]
fn clients_that_come_together_have_as_many_each() {
    let permits = ConnectionPermits::new(1000, UpstreamName::App);
    let clients = clients(4);
    let mut taken = Vec::new();
    for _ in 0..1000 {
        for client in &clients {
            if let Admission::Permit(permit) = permits.try_acquire(client) {
                taken.push((permit, permits.begin_usage(client.clone())));
            }
        }
    }
    let held = |requester: &Requester| requester.held(UpstreamName::App).0;
    let shares: Vec<_> = clients.iter().map(held).collect();
    assert!(shares.iter().all(|held| (205..=215).contains(held)), "{shares:?}");
    drop(taken);
    assert_eq!(clients.iter().map(held).sum::<usize>(), 0);
    assert_eq!(permits.lock().free, 1000);
}

#[test]
fn a_connection_leaves_some_for_the_others_of_its_client() {
    let permits = ConnectionPermits::new(1000, UpstreamName::App);
    let client = &clients(1)[0];
    let connections: Vec<_> = (0..10).map(|_| again(client)).collect();
    let mut taken = Vec::new();
    for connection in connections.iter().cycle().take(1000) {
        if let Admission::Permit(permit) = permits.try_acquire(connection) {
            taken.push((permit, permits.begin_usage(connection.clone())));
        }
    }
    let shares: Vec<_> = connections.iter().map(|connection| connection.held(UpstreamName::App).1).collect();
    assert!(shares.iter().all(|held| (55..=75).contains(held)), "{shares:?}");
    let page = again(client);
    assert!(matches!(permits.try_acquire(&page), Admission::Permit(_)));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_gets_the_permit_that_is_given_back_or_gives_up() {
    let (permits, requester) = (ConnectionPermits::new(1, UpstreamName::App), &clients(1)[0]);
    let permit = permits.acquire(requester, soon()).await.unwrap();
    assert!(permits.acquire(requester, soon()).await.is_none());
    assert!(!permits.lacks_idle());
    let (got, ()) = tokio::join!(permits.acquire(requester, soon()), async {
        assert_eq!(permits.waiting.load(Ordering::Relaxed), 1);
        drop(permit);
    });
    assert!(got.is_some());
    drop(got);
    assert_eq!((permits.lock().free, permits.waiting.load(Ordering::Relaxed)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_goes_to_the_gate_first_and_then_to_the_client_that_holds_fewest() {
    let permits = ConnectionPermits::new(3, UpstreamName::App);
    let clients = clients(2);
    let mut held = take_all(&permits, &clients[0]);
    assert_eq!(held.len(), 3);
    let tickets: Vec<_> = [&clients[0], &clients[1], &clients[1], &Requester::Gate]
        .map(|requester| permits.enqueue(&mut permits.lock(), requester.clone()))
        .into();
    let (mut tickets, mut order, mut given) = (tickets, Vec::new(), Vec::new());
    while let Some((permit, usage)) = held.pop() {
        drop(permit);
        // It still counts as served.
        given.push(usage);
        let at = tickets.iter_mut().position(|ticket| ticket.granted.try_recv().is_ok()).unwrap();
        let mut ticket = tickets.remove(at);
        ticket.is_taken = true;
        order.push(
            matches!(&ticket.requester, Requester::Client(..)).then(|| ticket.requester.held(UpstreamName::App).0),
        );
        std::mem::forget(ticket.take());
    }
    assert_eq!(order, [None, Some(1), Some(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_given_up_gives_back_its_permit() {
    let (permits, requester) = (ConnectionPermits::new(1, UpstreamName::App), &clients(1)[0]);
    let permit = permits.acquire(requester, soon()).await.unwrap();
    let ticket = permits.enqueue(&mut permits.lock(), requester.clone());
    drop(permit);
    assert_eq!(permits.lock().free, 0);
    drop(ticket);
    assert_eq!(permits.lock().free, 1);
    assert!(permits.acquire(requester, soon()).await.is_some());
}

#[test]
fn an_idle_connection_is_unused_and_lacking_to_a_client_that_may_have_one() {
    let permits = ConnectionPermits::new(16, UpstreamName::App);
    let clients = clients(2);
    let taken = take_all(&permits, &clients[0]);
    assert_eq!(taken.len(), 14);
    assert!(permits.reuse(&clients[0]).is_none());
    assert!(permits.reuse(&clients[1]).is_some() && permits.reuse(&Requester::Gate).is_some());
    let rest = take_all(&permits, &Requester::Gate);
    let ticket = permits.enqueue(&mut permits.lock(), clients[1].clone());
    assert!(!permits.lacks_idle(), "nothing is idle");
    let idle = permits.idle_count();
    idle.store(1, Ordering::Relaxed);
    permits.reconsider();
    assert!(permits.lacks_idle());
    drop((ticket, rest));
    assert!(!permits.lacks_idle());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_has_room_for_another_client() {
    let permits = ConnectionPermits::new(1, UpstreamName::App);
    let clients = clients(2);
    let _permit = permits.acquire(&clients[0], soon()).await.unwrap();
    let line = |requester: &Requester| {
        let enqueue = || match permits.try_acquire(requester) {
            Admission::Queued(ticket) => Some(ticket),
            Admission::Permit(_) | Admission::Refused => None,
        };
        std::iter::from_fn(enqueue).collect::<Vec<_>>()
    };
    let waiting = [line(&clients[0]), line(&clients[1]), line(&Requester::Gate)];
    let asked = Instant::now();
    assert!(permits.acquire(&clients[0], soon()).await.is_none());
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(waiting[1].len() > 50 && waiting[2].len() >= MAX_OWN);
    assert_eq!(waiting.iter().map(Vec::len).sum::<usize>(), MAX_WAITING);
    drop(waiting);
    assert_eq!(permits.waiting.load(Ordering::Relaxed), 0);
}
