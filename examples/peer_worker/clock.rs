//! Samples of a run: its time, whether it was interrupted, and how fast the machine was then.

use std::time::{Duration, Instant};

use super::Run;

/// How often the process was preempted, and the nanoseconds that it ran.
fn scheduled() -> (i64, u64) {
    // SAFETY: both calls fill a plain structure of integers, for which zeros are a value.
    let (usage, time) = unsafe {
        let (mut usage, mut time) = std::mem::zeroed::<(libc::rusage, libc::timespec)>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time);
        (usage, time)
    };
    (
        usage.ru_nivcsw,
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64,
    )
}

/// Nanoseconds of the rig's calibration loop: `calib_ns` of native/worker.h, instruction for instruction.
#[cfg(target_arch = "x86_64")]
fn calibrate() -> u64 {
    let start = Instant::now();
    let (mut a, mut b, mut c, mut d) = (1u64, 2u64, 3u64, 4u64);
    for _ in 0..4000 {
        // SAFETY: additions of registers that are declared as changed.
        unsafe {
            std::arch::asm!(
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                "add {0}, 1", "add {1}, 1", "add {2}, 1", "add {3}, 1",
                inout(reg) a, inout(reg) b, inout(reg) c, inout(reg) d,
            );
        }
    }
    std::hint::black_box((a, b, c, d));
    start.elapsed().as_nanos() as u64
}

#[cfg(not(target_arch = "x86_64"))]
fn calibrate() -> u64 {
    0
}

/// Runs until `budget` is spent, at most `reps` times, and writes the samples.
pub(crate) fn sample(run: &mut Run, budget: Duration, reps: usize, multi: bool) -> String {
    run();
    let mut answer = String::from("ok");
    let (mut spent, mut burst) = (Duration::ZERO, Duration::ZERO);
    for i in 0..reps {
        let before = calibrate();
        let (preempted, ran) = scheduled();
        let start = Instant::now();
        run();
        let wall = start.elapsed();
        let (preempted_after, ran_after) = scheduled();
        let calibration = before.max(calibrate());
        let dirty = u8::from(preempted_after != preempted);
        let cpu = ran_after - ran;
        answer += &format!(" {}:{dirty}:{cpu}:{calibration}", wall.as_nanos());
        spent += wall;
        burst += wall;
        if spent > budget && i >= 2 {
            break;
        }
        if multi && burst.as_millis() >= 2 {
            // See native/worker.h: a process that just slept is scheduled at once, on both cores.
            burst = Duration::ZERO;
            std::thread::sleep(Duration::from_millis(4));
            run();
        }
    }
    answer
}
