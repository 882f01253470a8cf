//! How many labs of one process run beside each other.
//!
//! A lab mostly waits: for an agent that starts, for a packet that does not arrive. So a test run
//! has more threads than the machine has processors: three for each two (`make test WAITING_THREADS=N`).
//! Some labs do not wait: they send all the time, and what they measure depends on when a packet
//! arrives. Such a lab takes two shares of three that each processor has, because it needs about half a
//! processor. So with the default number of threads no lab waits here.

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError, Weak};

/// The shares of the machine for each processor.
const EACH: usize = 3;

/// How much of the machine a lab needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineUse {
    /// It waits most of the time.
    Waiting,
    /// It sends or computes all the time.
    Busy,
}

/// Shares of the machine that a test has. They return when the last of its labs is dropped.
#[derive(Debug)]
pub struct Share {
    machine: &'static Machine,
    shares: usize,
}

/// The shares that are free, and which test is next.
#[derive(Debug)]
struct Machine {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// The number of the next that comes, and of the next that gets something: in order, so that
    /// one that needs more is not passed over again and again.
    comes: usize,
    gets: usize,
}

/// The machine that this process runs on.
static MACHINE: LazyLock<Machine> =
    LazyLock::new(|| Machine::new(EACH * std::thread::available_parallelism().map_or(1, NonZero::get)));

thread_local! {
    /// What the test of this thread has. A test with a second lab must not wait for its own first.
    static HELD: RefCell<Weak<Share>> = const { RefCell::new(Weak::new()) };
}

impl MachineUse {
    const fn shares(self) -> usize {
        match self {
            Self::Waiting => 1,
            Self::Busy => 2,
        }
    }
}

impl Share {
    /// Waits until this much of the machine is free. A thread that has some already, for another
    /// lab, has that for this one too.
    #[must_use]
    pub fn wait(demand: MachineUse) -> Arc<Self> {
        HELD.with_borrow_mut(|held| {
            held.upgrade().unwrap_or_else(|| {
                let share = Arc::new(MACHINE.take(demand.shares()));
                *held = Arc::downgrade(&share);
                share
            })
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.machine.lock().free += self.shares;
        self.machine.changed.notify_all();
    }
}

impl Machine {
    const fn new(free: usize) -> Self {
        Self { state: Mutex::new(State { free, comes: 0, gets: 0 }), changed: Condvar::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&'static self, shares: usize) -> Share {
        let mut state = self.lock();
        let number = state.comes;
        state.comes += 1;
        let is_early = |state: &mut State| state.gets != number || state.free < shares;
        let mut state = self.changed.wait_while(state, is_early).unwrap_or_else(PoisonError::into_inner);
        state.gets += 1;
        state.free -= shares;
        drop(state);
        // There may be enough for the next one too.
        self.changed.notify_all();
        Share { machine: self, shares }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn machine(shares: usize) -> &'static Machine {
        Box::leak(Box::new(Machine::new(shares)))
    }

    /// Waits until so many have come, whether they got something or not.
    fn have_come(machine: &Machine, number: usize) {
        while machine.lock().comes < number {
            thread::yield_now();
        }
    }

    #[test]
    fn one_that_needs_more_is_not_passed_over() {
        let machine = machine(4);
        let first = machine.take(1);
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let order = &order;
            let take = move |shares: usize| {
                let _share = machine.take(shares);
                order.lock().unwrap_or_else(PoisonError::into_inner).push(shares);
            };
            scope.spawn(move || take(4));
            have_come(machine, 2);
            // There would be enough for this one.
            scope.spawn(move || take(2));
            have_come(machine, 3);
            let (gets, free) = {
                let state = machine.lock();
                (state.gets, state.free)
            };
            assert_eq!((gets, free), (1, 3), "the last one waits behind the one that needs more");
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap_or_default(), [4, 2]);
        assert_eq!(machine.lock().free, 4);
    }

    #[test]
    fn a_thread_has_its_shares_for_all_its_labs() {
        let first = Share::wait(MachineUse::Busy);
        let second = Share::wait(MachineUse::Waiting);
        assert!(Arc::ptr_eq(&first, &second), "{first:?}, {second:?}");
    }
}
