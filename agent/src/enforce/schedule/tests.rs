//! The rules of the schedule, for any order of events.

use proptest::prelude::*;

use super::*;

const FAILURES: [PassFailure; 3] = [PassFailure::Locked, PassFailure::OneFamily, PassFailure::Other];

/// Long enough for any wait to be over.
const LONG: Duration = Duration::from_secs(60);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A schedule with a change that a pass failed to write, so long as that took.
fn failed(now: Instant, took: Duration, failure: PassFailure) -> (Schedule, Duration) {
    let mut schedule = Schedule::new(now);
    schedule.changed(now);
    assert_eq!(schedule.take_due(now), Some(Task::Pass));
    let wait = schedule.pass_failed(now, took, failure);
    (schedule, wait)
}

#[test]
fn a_change_is_due_at_once_and_once() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now);
    assert_eq!((schedule.take_due(now), schedule.pass_due()), (None, None));
    schedule.changed(now);
    schedule.changed(now + millis(1));
    assert_eq!(schedule.next(), now);
    assert_eq!(schedule.take_due(now + millis(2)), Some(Task::Pass));
    schedule.pass_succeeded(now + millis(3), millis(1));
    assert_eq!((schedule.take_due(now + millis(3)), schedule.next()), (None, now + AUDIT));
}

#[test]
fn the_kernel_is_audited_while_changes_come_without_a_pause() {
    let begun = Instant::now();
    let (mut schedule, mut audits) = (Schedule::new(begun), 0);
    for n in 0..10_000 {
        let now = begun + millis(n * 10);
        schedule.changed(now);
        match schedule.take_due(now) {
            Some(Task::Pass) => schedule.pass_succeeded(now, millis(10)),
            Some(Task::Audit(audit)) => {
                assert_eq!(audit.depth, AuditScope::Periodic);
                audits += 1;
            }
            None => panic!("a change is due"),
        }
    }
    assert_eq!(audits, 100_000 / AUDIT.as_millis() - 1);
}

#[test]
fn the_kernel_is_audited_after_a_notification_while_large_changes_are_loaded_and_not_with_each_portion() {
    let begun = Instant::now();
    let (mut schedule, mut audits, mut passes) = (Schedule::new(begun), 0, 0);
    for n in 0..1_000 {
        let now = begun + millis(n * 10);
        schedule.request_load(now);
        // The portion itself is what is notified of.
        schedule.notified(now);
        match schedule.take_due(now) {
            Some(Task::Pass) => {
                schedule.pass_succeeded(now, millis(10));
                passes += 1;
            }
            Some(Task::Audit(audit)) => audits += u32::from(audit.depth == AuditScope::Notified),
            None => panic!("a portion is due"),
        }
    }
    assert!((5..=10).contains(&audits) && passes > 900, "{audits} audits, {passes} passes");
}

#[test]
fn a_change_comes_before_the_next_portion_and_brings_it() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now);
    schedule.request_load(now + millis(2_000));
    assert_eq!((schedule.take_due(now), schedule.pass_due(), schedule.next()), (None, None, now + millis(2_000)));
    schedule.changed(now);
    assert_eq!(schedule.take_due(now), Some(Task::Pass));
    schedule.pass_succeeded(now, millis(1));
    assert_eq!(schedule.take_due(now + millis(2_000)), None, "the pass loaded it");
    schedule.request_load(now);
    schedule.failed(now, PassFailure::Other);
    assert_eq!(schedule.take_due(now), None, "a kernel that refuses is not asked more often");
    // It is found out beside the loop what a large change makes, and that ends now.
    schedule.request_load(now);
    assert_eq!(schedule.take_due(now), None, "a kernel that refuses is not asked more often");
    schedule.pass_succeeded(now, millis(1));
    schedule.request_load(now + millis(2_000));
    schedule.request_load(now);
    assert_eq!(schedule.take_due(now), None, "another program holds the lock");
}

#[test]
fn an_audit_that_takes_longer_than_its_interval_lets_every_pass_in() {
    let mut now = Instant::now();
    let mut schedule = Schedule::new(now);
    now += AUDIT;
    for _ in 0..10 {
        let Some(Task::Audit(audit)) = schedule.take_due(now) else { panic!("an audit is due") };
        schedule.changed(now);
        now += AUDIT * 3;
        schedule.audit_found_nothing(now, audit.depth, AUDIT * 3);
        assert_eq!(schedule.take_due(now), Some(Task::Pass));
        schedule.pass_succeeded(now, Duration::ZERO);
    }
}

#[test]
fn a_lock_is_tried_again_by_the_next_change_and_one_family_soon() {
    let now = Instant::now();
    let later = now + millis(10);
    let due = |failure, took| {
        let (mut schedule, _) = failed(now, took, failure);
        // Longer than the first wait.
        schedule.failed(now, failure);
        schedule.failed(now, failure);
        schedule.changed(later);
        schedule.pass_due()
    };
    assert_eq!(due(PassFailure::Locked, Duration::ZERO), Some(later));
    assert_eq!(due(PassFailure::OneFamily, Duration::ZERO), Some(later + FIRST_RETRY));
    assert_eq!(due(PassFailure::OneFamily, millis(100)), Some(later + millis(400)));
    assert_eq!(due(PassFailure::Other, Duration::ZERO), Some(now + FIRST_RETRY * 4));
}

#[test]
fn a_request_that_waits_brings_a_pass_forward_after_any_failure_but_not_at_once() {
    let now = Instant::now();
    let later = now + millis(10);
    for (failure, took, due) in [
        (PassFailure::Locked, Duration::ZERO, later),
        (PassFailure::OneFamily, Duration::ZERO, later + FIRST_RETRY),
        (PassFailure::Other, Duration::ZERO, later + FIRST_RETRY),
        (PassFailure::Other, millis(100), later + millis(400)),
    ] {
        let (mut schedule, _) = failed(now, took, failure);
        for _ in 0..3 {
            schedule.failed(now, failure);
        }
        schedule.waited_for(later);
        assert_eq!(schedule.pass_due(), Some(due), "{failure:?}");
    }
    let mut schedule = Schedule::new(now);
    schedule.waited_for(later);
    assert_eq!(schedule.pass_due(), Some(later));
}

#[test]
fn a_notification_is_followed_by_an_audit_at_once_and_after_a_find_not_before_a_pause() {
    let now = Instant::now();
    let notified = Some(Task::Audit(AuditRequest { depth: AuditScope::Notified, is_notified: true }));
    let mut schedule = Schedule::new(now);
    schedule.notified(now);
    schedule.notified(now + millis(1));
    assert_eq!((schedule.next(), schedule.take_due(now), schedule.take_due(now)), (now, notified, None));
    schedule.audit_found(now, millis(30));
    schedule.notified(now);
    assert_eq!((schedule.take_due(now + millis(29)), schedule.take_due(now + millis(30))), (None, notified));
}

#[test]
fn a_notification_brings_a_retry_forward_unless_it_is_an_echo() {
    let now = Instant::now();
    for (after, is_echo) in [(millis(400), true), (millis(401), false)] {
        let (mut schedule, _) = failed(now, Duration::ZERO, PassFailure::Other);
        for _ in 0..5 {
            schedule.failed(now, PassFailure::Other);
        }
        let due = schedule.pass_due();
        schedule.notified_out_of_sync(now + after);
        assert_eq!(schedule.pass_due(), if is_echo { due } else { Some(now + after + FIRST_RETRY) });
    }
}

#[test]
fn a_pass_that_succeeds_after_a_failure_is_followed_by_audits() {
    let now = Instant::now();
    for failure in FAILURES {
        let (mut schedule, wait) = failed(now, Duration::ZERO, failure);
        let now = now + wait;
        assert_eq!(schedule.take_due(now), Some(Task::Pass));
        schedule.pass_succeeded(now, Duration::ZERO);
        assert_eq!(schedule.next(), now + millis(100), "{failure:?}");
    }
}

#[test]
fn flows_are_judged_at_once_after_a_repair() {
    let now = Instant::now();
    let mut schedule = Schedule::new(now);
    schedule.audit_found(now, millis(1));
    schedule.repaired(now);
    assert_eq!(schedule.take_due(now), Some(Task::Pass));
}

/// A program that undoes each repair at once, with a notification, costs this agent half
/// of the time at most.
#[test]
fn drift_without_end_takes_half_of_a_processor_at_most() {
    for took in [1, 10, 100, 1000, 4000].map(Duration::from_millis) {
        let begun = Instant::now();
        let (mut schedule, mut now, mut busy) = (Schedule::new(begun), begun, Duration::ZERO);
        while now < begun + LONG * 10 {
            schedule.notified(now);
            now = now.max(schedule.next());
            match schedule.take_due(now) {
                Some(Task::Audit(_)) => {
                    now += took;
                    busy += took;
                    schedule.audit_found(now, took);
                    schedule.repaired(now);
                }
                // It only judges flows.
                Some(Task::Pass) => schedule.pass_succeeded(now, Duration::ZERO),
                None => panic!("what is due is taken"),
            }
        }
        let share = busy.as_secs_f64() / (now - begun).as_secs_f64();
        assert!((0.1..0.51).contains(&share), "{took:?}: {share}");
    }
}

/// What happens to an agent, and how what it does then ends.
#[derive(Debug, Clone)]
enum Event {
    Changed,
    Notified,
    Requested,
    /// Time passes, until something is due at most.
    Passes(Duration),
    /// It does what is due; that takes so long.
    Does(Duration, Outcome),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Fine,
    Drift,
    Fails(PassFailure),
}

fn failure() -> impl Strategy<Value = PassFailure> {
    prop::sample::select(FAILURES.to_vec())
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = prop_oneof![
        2 => Just(Outcome::Fine),
        1 => Just(Outcome::Drift),
        2 => failure().prop_map(Outcome::Fails),
    ];
    prop_oneof![
        Just(Event::Changed),
        Just(Event::Notified),
        Just(Event::Requested),
        (0_u64..3000).prop_map(|n| Event::Passes(millis(n))),
        ((0_u64..3000).prop_map(millis), outcome).prop_map(|(took, outcome)| Event::Does(took, outcome)),
    ]
}

/// An agent as far as its schedule concerns it.
#[derive(Debug)]
struct Model {
    schedule: Schedule,
    now: Instant,
    /// Changes have come that no pass has written.
    is_behind: bool,
    /// The kernel may not hold what was written.
    is_unknown: bool,
    last_periodic: Instant,
}

impl Model {
    fn step(&mut self, event: &Event) {
        match event {
            Event::Changed => {
                self.schedule.changed(self.now);
                self.is_behind = true;
            }
            Event::Notified => self.schedule.notified(self.now),
            Event::Requested => self.schedule.request_pass(self.now),
            Event::Passes(time) => self.now = (self.now + *time).min(self.schedule.next().max(self.now)),
            Event::Does(took, outcome) => self.take(*took, *outcome),
        }
    }

    fn take(&mut self, took: Duration, outcome: Outcome) {
        let is_due = self.schedule.next() <= self.now;
        let task = self.schedule.take_due(self.now);
        assert_eq!(task.is_some(), is_due);
        if task.is_some_and(|task| matches!(task, Task::Audit(audit) if audit.depth == AuditScope::Periodic)) {
            self.last_periodic = self.now;
        }
        if task.is_some() {
            self.now += took;
        }
        match (task, outcome) {
            (None, _) => {}
            (Some(Task::Pass), Outcome::Fails(failure)) => {
                self.schedule.pass_failed(self.now, took, failure);
                self.is_unknown = true;
            }
            (Some(Task::Pass), _) => {
                self.schedule.pass_succeeded(self.now, took);
                (self.is_behind, self.is_unknown) = (false, false);
            }
            (Some(Task::Audit(audit)), _) if self.is_unknown => {
                self.schedule.audit_found_nothing(self.now, audit.depth, took);
                self.schedule.notified_out_of_sync(self.now);
            }
            (Some(Task::Audit(audit)), Outcome::Fine) => {
                self.schedule.audit_found_nothing(self.now, audit.depth, took);
            }
            (Some(Task::Audit(_)), Outcome::Drift) => {
                self.schedule.audit_found(self.now, took);
                self.schedule.repaired(self.now);
            }
            (Some(Task::Audit(_)), Outcome::Fails(failure)) => {
                self.schedule.audit_found(self.now, took);
                self.schedule.failed(self.now, failure);
                self.is_unknown = true;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_every_sequence_a_pass_is_due_while_the_kernel_is_behind_and_the_audit_comes_in_time(
        events in prop::collection::vec(event(), 0..200)
    ) {
        let now = Instant::now();
        let schedule = Schedule::new(now);
        let mut model = Model { schedule, now, is_behind: false, is_unknown: false, last_periodic: now };
        for event in &events {
            model.step(event);
            let due = model.schedule.pass_due();
            prop_assert!(due.is_some() || !model.is_behind && !model.is_unknown, "{model:?}");
            prop_assert!(due.is_none_or(|due| due <= model.now + LONGEST_SHARE), "{model:?}");
            prop_assert!(model.schedule.next() <= model.last_periodic + AUDIT * 2, "{model:?}");
        }
    }

    #[test]
    fn no_change_brings_a_pass_forward_that_the_kernel_refused(
        took in 0_u64..5000, failures in 1_usize..10, changes in prop::collection::vec(0_u64..20_000, 0..20)
    ) {
        let now = Instant::now();
        let (mut schedule, _) = failed(now, millis(took), PassFailure::Other);
        for _ in 1..failures {
            schedule.failed(now, PassFailure::Other);
        }
        let due = schedule.pass_due();
        for change in changes {
            schedule.changed(now + millis(change));
            schedule.request_pass(now + millis(change));
            prop_assert_eq!(schedule.pass_due(), due);
        }
    }

    #[test]
    fn each_wait_is_longer_up_to_a_limit_and_a_costly_pass_is_a_fifth_of_the_time(
        took in 0_u64..20_000, failures in prop::collection::vec(failure(), 1..30)
    ) {
        let (now, took) = (Instant::now(), millis(took));
        let (mut schedule, mut last) = failed(now, took, PassFailure::Other);
        prop_assert_eq!(last, FIRST_RETRY);
        let mut was_locked = false;
        for failure in failures {
            let wait = schedule.pass_failed(now, took, failure);
            let is_locked = failure == PassFailure::Locked;
            if is_locked {
                prop_assert!((FIRST_RETRY..=LOCK_RETRY).contains(&wait));
            } else {
                prop_assert!((FIRST_RETRY..=LONGEST_SHARE).contains(&wait));
                prop_assert!(wait >= took * RETRY_SHARE || wait == LONGEST_SHARE);
                prop_assert!(wait >= last || was_locked, "{wait:?} {last:?}");
            }
            (last, was_locked) = (wait, is_locked);
        }
        schedule.pass_succeeded(now, took);
        prop_assert_eq!(schedule.failed(now, PassFailure::Other), FIRST_RETRY);
    }
}
