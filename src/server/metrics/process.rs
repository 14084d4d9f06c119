//! What the process takes of the machine, under the names that Prometheus' own libraries use for it. Read from /proc.
//!
//! Where `dev` runs several nodes in one process, each shows the same.

use std::fs;

use crate::telemetry::metrics::Family;

/// Ticks a second in /proc: the same on all of Linux that this program is built for, whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process' numbers. What can't be read is left out.
pub(super) fn families() -> Vec<Family> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    let open_fds = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64);
    vec![
        Family::gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.")
            .of(resident_bytes(&status)),
        Family::gauge("process_open_fds", "File descriptors that are open.").of(open_fds),
        Family::gauge("process_max_fds", "File descriptors that may be open.").of(fds_max(&limits)),
        Family::gauge("process_threads", "Threads of the process.").of(field(&status, "Threads:")),
        Family::counter("process_cpu_seconds_total", "Time on processors, of the program and of the system for it.")
            .of(cpu_seconds(&stat)),
        Family::gauge("process_start_time_seconds", "When the process started, in seconds of Unix time.")
            .of(start_time_seconds(&stat, &system)),
    ]
}

/// The first number behind `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    field(status, "VmRSS:").map(|kib| kib << 10)
}

fn fds_max(limits: &str) -> Option<u64> {
    field(limits, "Max open files")
}

/// The number of a field of /proc/self/stat, counted from 3 as the manual does: those behind the program's name, which may
/// hold spaces and brackets itself.
fn stat_field(stat: &str, nth: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(nth - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_time_seconds(stat: &str, system: &str) -> Option<f64> {
    Some(field(system, "btime")? as f64 + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let stat = "7 (jump) gate) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000 200";
        assert_eq!((cpu_seconds(stat), stat_field(stat, 22)), (Some(3.0), Some(12345.0)));
        assert_eq!(start_time_seconds(stat, "cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_123.45));
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(
            fds_max("Limit  Soft  Hard\nMax open files            1024                 4096   files\n"),
            Some(1024)
        );
        assert_eq!((cpu_seconds(""), fds_max("Max open files unlimited")), (None, None));
    }

    #[test]
    fn this_process_has_all_of_them() {
        let text = crate::telemetry::metrics::exposition(&families());
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 6, "{text}");
    }
}
