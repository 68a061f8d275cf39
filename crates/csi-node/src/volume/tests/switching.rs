//! A change as readers see it that never stop reading.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{Change, Options, Payload, TargetPath, Volumes},
    bed::{Bed, expected, internal_names, options, payload, view, volumes},
};

/// What readers are promised, in docs/freshness.md.
const PROMISED: Duration = Duration::from_secs(5);

/// Version `n`: names that stay, names that come and go, and a list of them all.
fn version(n: u64) -> Payload {
    let text = format!("version {n}");
    let mut names =
        vec!["a".to_owned(), "d/b".to_owned(), format!("only{}", n % 3), format!("d/only{}", n % 2)];
    names.push("list".to_owned());
    let list = format!("{text}\n{}", names.join("\n"));
    let files: Vec<_> = names
        .iter()
        .map(|n| (n.as_str(), 0o644, if n == "list" { list.as_str() } else { text.as_str() }))
        .collect();
    payload(&files)
}

/// Reads one generation through `..data` as a careful reader does: opens it once and reads everything in it.
fn read_a_set(target: &TargetPath) -> Result<(), String> {
    let data = File::open(target.as_path().join("..data")).map_err(|e| format!("..data: {e}"))?;
    let path = format!("/proc/self/fd/{}", data.as_raw_fd());
    let read = |name: &str| fs::read_to_string(format!("{path}/{name}")).map_err(|e| format!("{name}: {e}"));
    let list = read("list")?;
    let (version, names) = list.split_once('\n').ok_or("an empty list")?;
    for name in names.split('\n') {
        // A slow reader.
        thread::yield_now();
        let text = read(name)?;
        if text.lines().next() != Some(version) {
            return Err(format!("{name} is {text:?} in a set of {version:?}"));
        }
    }
    let mut found = 0;
    for directory in ["", "/d"] {
        for entry in fs::read_dir(format!("{path}{directory}")).map_err(|e| e.to_string())? {
            found += usize::from(!entry.map_err(|e| e.to_string())?.file_type().unwrap().is_dir());
        }
    }
    if found == names.split('\n').count() { Ok(()) } else { Err(format!("{found} files in {version}")) }
}

/// Names that are in every version are there at every moment, whichever way they are opened.
fn read_by_name(target: &TargetPath) -> Result<(), String> {
    for name in ["a", "d/b", "list", "..data/a", "..data/d/b"] {
        let text = fs::read_to_string(target.as_path().join(name)).map_err(|e| format!("{name}: {e}"))?;
        if !text.starts_with("version ") {
            return Err(format!("{name} is {text:?}"));
        }
    }
    Ok(())
}

#[test]
fn readers_never_see_a_missing_or_mixed_set() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let volumes = Volumes::new(Options::default());
    volumes.publish(&target, &version(0), None).unwrap();
    let stop = AtomicBool::new(false);
    let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
    let reader = |read: fn(&TargetPath) -> Result<(), String>, rounds: &AtomicU64| {
        while !stop.load(Ordering::SeqCst) {
            let started = Instant::now();
            // Nothing is promised to a reader that was kept waiting for longer.
            read(&target).or_else(|e| if started.elapsed() > PROMISED { Ok(()) } else { Err(e) })?;
            rounds.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    let results: [Result<(), String>; 2] = thread::scope(|scope| {
        let sets = scope.spawn(|| reader(read_a_set, &rounds[0]));
        let names = scope.spawn(|| reader(read_by_name, &rounds[1]));
        let busy = |n: u64| n < 200 || rounds.iter().any(|rounds| rounds.load(Ordering::SeqCst) < 20);
        let mut last = 0;
        while busy(last) && !sets.is_finished() && !names.is_finished() {
            last += 1;
            assert_eq!(volumes.publish(&target, &version(last), None).unwrap(), Change::Switched);
        }
        stop.store(true, Ordering::SeqCst);
        [sets.join().unwrap(), names.join().unwrap()]
    });
    assert_eq!(results, [Ok(()), Ok(())]);
}

#[test]
fn who_has_opened_a_set_keeps_it_through_switches_in_quick_succession() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let patient = || Volumes::new(Options { former_for: Duration::from_secs(3600), ..Options::default() });
    let mut open = Vec::new();
    for n in 0..5 {
        patient().publish(&target, &version(n), None).unwrap();
        open.push(File::open(target.as_path().join("..data")).unwrap());
        patient().tidy(&target).unwrap();
    }
    // What never was current has no readers.
    let unfinished = target.as_path().join("..2026_01_02_03_04_05.1");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("a"), "half").unwrap();
    assert_eq!(patient().publish(&target, &version(4), None).unwrap(), Change::Unchanged);
    assert!(!unfinished.exists());
    let read = |data: &File| fs::read_to_string(format!("/proc/self/fd/{}/d/b", data.as_raw_fd()));
    for (n, data) in open.iter().enumerate() {
        assert_eq!(read(data).unwrap(), format!("version {n}"));
    }
    // Another process, for which it is long enough.
    Volumes::new(options()).tidy(&target).unwrap();
    for (n, data) in open.iter().enumerate() {
        assert_eq!(read(data).is_ok(), n == 4);
    }
    assert_eq!(internal_names(&target).len(), 2);
    assert_eq!(view(&target), expected(&version(4)));
}

#[test]
fn the_former_generation_goes_with_the_next_call() {
    let Some(bed) = Bed::new() else { return };
    let target = bed.target();
    let (old, new) = (payload(&[("a", 0o644, "old")]), payload(&[("a", 0o644, "new")]));
    volumes().publish(&target, &old, None).unwrap();
    let open = File::open(target.as_path().join("..data")).unwrap();
    let held = format!("/proc/self/fd/{}/a", open.as_raw_fd());
    volumes().publish(&target, &new, None).unwrap();
    assert_eq!(fs::read_to_string(&held).unwrap(), "old");
    assert_eq!(internal_names(&target).len(), 3);

    volumes().tidy(&target).unwrap();
    assert!(fs::read_to_string(&held).is_err());
    assert_eq!(internal_names(&target).len(), 2);

    volumes().publish(&target, &old, None).unwrap();
    assert_eq!(volumes().publish(&target, &old, None).unwrap(), Change::Unchanged);
    assert_eq!(internal_names(&target).len(), 2);
    // Nothing to tidy, nothing there to tidy.
    volumes().tidy(&target).unwrap();
    volumes().unpublish(&target).unwrap();
    volumes().tidy(&target).unwrap();
    assert!(!target.as_path().exists());
}

#[test]
fn calls_for_one_target_exclude_each_other_and_for_many_run_together() {
    let Some(bed) = Bed::new() else { return };
    let targets: BTreeMap<u64, TargetPath> =
        (0..4).map(|n| (n, bed.target_named(&format!("v{n}")))).collect();
    thread::scope(|scope| {
        for n in 0..16 {
            let target = &targets[&(n % 4)];
            scope.spawn(move || {
                for round in 0..10 {
                    volumes().publish(target, &version(n + round), None).unwrap();
                    if (n + round) % 5 == 0 {
                        volumes().unpublish(target).unwrap();
                    }
                }
            });
        }
    });
    for target in targets.values() {
        volumes().publish(target, &version(1), None).unwrap();
        assert_eq!(view(target), expected(&version(1)));
    }
    // Four calls at once for one target must not have stacked mounts.
    assert_eq!(super::bed::mounts_below(&bed.path()).len(), 4);
}
