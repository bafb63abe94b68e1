//! The command line as its users meet it: the binary, its exit codes, what it prints, and the files that it leaves.
#![cfg(feature = "cli")]

mod tools;

use std::fs;
use std::path::Path;

use tools::*;

#[test]
fn listen_hears_the_words_of_the_bundled_stream() {
    let json = good(&["listen", "--json", "--rounds=1", "--no-dense"]);
    let summary: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["windows"], 371);
    let left: Vec<_> = (0..3)
        .map(|g| summary["gates"][g]["left"].as_u64().unwrap())
        .collect();
    assert_eq!(left, [136, 101, 22]); // models/expected/kws_dynamic.stream_exit.npy
    assert_eq!(summary["completed"], 112);
    let heard: Vec<_> = summary["detections"].as_array().unwrap().iter().collect();
    let words: Vec<_> = heard
        .iter()
        .map(|d| d["keyword"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["no", "down", "on", "on", "yes", "down"]);
    assert!(summary["macs"]["skipped_share"].as_f64().unwrap() > 0.5);
    assert!(summary["time"]["dense_window"].is_null());
}

#[test]
fn listen_skips_in_a_transformer() {
    let model = "models/kwt_dynamic.onnx";
    let json = good(&["listen", model, "--json", "--rounds=1", "--no-dense"]);
    let summary: serde_json::Value = serde_json::from_str(&json).unwrap();
    let left: Vec<_> = (0..2)
        .map(|g| summary["gates"][g]["left"].as_u64().unwrap())
        .collect();
    assert_eq!(left, [275, 2]); // models/expected/kwt_dynamic.stream_exit.npy
    assert_eq!(summary["completed"], 94);
    let masks = summary["masks"].as_array().unwrap();
    assert!(masks.len() >= 2, "{masks:?}");
    for mask in masks {
        let (live, all) = (&mask["mean_live"], &mask["channels"]);
        assert!(
            live.as_f64().unwrap() < 0.4 * all.as_f64().unwrap(),
            "{mask}"
        );
    }
    assert!(summary["macs"]["skipped_share"].as_f64().unwrap() > 0.6);
}

#[test]
fn listen_prints_a_summary_and_draws() {
    let dir = folder();
    let plot = dir.path().join("out.svg");
    let clip = "models/clips/00_yes.wav";
    let out = good(&["listen", KWS, clip, "--rounds=1", "--plot", text(&plot)]);
    for line in [
        "gate 2",
        "ran to the end",
        "MACs a window",
        "run dense",
        "real time",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(files(dir.path()), ["out.svg"]);
}

#[test]
fn listen_takes_log_mel_models_and_labels() {
    let dir = folder();
    let labels = write(
        &dir,
        "labels.json",
        br#"["a","b","c","d","e","f","g","h","i","j","_k","_l"]"#,
    );
    let model = "models/kwt_static.onnx";
    let args = [
        "listen",
        model,
        "--rounds=1",
        "--no-dense",
        "--json",
        "--labels",
        text(&labels),
    ];
    let summary: serde_json::Value = serde_json::from_str(&good(&args)).unwrap();
    assert_eq!(summary["detections"][0]["keyword"], "b");
    let few = write(&dir, "few.txt", b"yes\nno\n");
    let clip = "models/clips/00_yes.wav";
    bad(
        &["listen", KWS, clip, "--labels", text(&few)],
        &["12 classes", "2 labels", "--labels"],
    );
    let none = write(&dir, "none.txt", b"_a\n");
    bad(
        &["listen", KWS, clip, "--labels", text(&none)],
        &["none.txt", "no keyword"],
    );
}

#[test]
fn listen_converts_what_it_can() {
    let dir = folder();
    let stereo = wav(&dir, "stereo.wav", 2, 44_100, 2.0);
    let out = good(&["listen", KWS, text(&stereo), "--rounds=1"]);
    assert!(
        out.contains("2 channels mixed down, resampled from 44100 to 16000 Hz"),
        "{out}"
    );
    assert!(out.contains("6 windows"), "{out}");
}

#[test]
fn listen_refuses_what_it_cannot() {
    let dir = folder();
    let plot = dir.path().join("out.svg");
    let listen = |stream: &Path, words: &[&str]| {
        bad(&["listen", KWS, text(stream), "--plot", text(&plot)], words);
        assert!(!plot.exists());
    };
    listen(Path::new("no/such.wav"), &["no/such.wav", "No such file"]);
    listen(&write(&dir, "zero.wav", b""), &["zero.wav", "empty"]);
    listen(
        &wav(&dir, "silent.wav", 1, 16_000, 0.0),
        &["silent.wav", "no samples"],
    );
    listen(
        &wav(&dir, "short.wav", 1, 16_000, 0.5),
        &["short.wav", "0.50 s", "shorter"],
    );
    listen(&wav(&dir, "slow.wav", 1, 100, 2.0), &["slow.wav", "100 Hz"]);
    listen(
        &write(&dir, "text.wav", b"not a wave file at all"),
        &["text.wav", "WAV"],
    );
    let good = fs::read(wav(&dir, "cut.wav", 1, 16_000, 2.0)).unwrap();
    listen(
        &write(&dir, "cut.wav", &good[..20_000]),
        &["cut.wav", "samples"],
    );
    listen(&write(&dir, "cut.wav", &good[..30]), &["cut.wav"]);

    let tone = wav(&dir, "tone.wav", 1, 16_000, 2.0);
    bad(
        &["listen", "no/model.onnx", text(&tone)],
        &["no/model.onnx", "No such file"],
    );
    let other = write(&dir, "other.onnx", &one_node("Relu"));
    bad(
        &["listen", text(&other), text(&tone)],
        &["other.onnx", "`x` [2]", "[N, 1, 49, 10]"],
    );
    let nowhere = dir.path().join("no/such/out.svg");
    bad(
        &["listen", KWS, text(&tone), "--plot", text(&nowhere)],
        &["no/such/out.svg"],
    );
}

#[test]
fn damaged_models_are_refused() {
    let dir = folder();
    let model = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(KWS)).unwrap();
    let cut = write(&dir, "cut.onnx", &model[..model.len() / 2]);
    let output = dir.path().join("out");
    let run = [
        "run",
        text(&cut),
        "--input",
        MFCC,
        "--output",
        text(&output),
    ];
    bad(&run, &["cut.onnx"]);
    bad(&["inspect", text(&cut)], &["cut.onnx"]);
    bad(
        &["inspect", text(&write(&dir, "empty.onnx", b""))],
        &["empty.onnx"],
    );
    assert!(!output.exists());
}

#[test]
fn run_writes_what_was_computed() {
    let dir = folder();
    let output = dir.path().join("new/folder");
    let out = good(&[
        "run",
        KWS,
        "--input",
        MFCC,
        "--output",
        text(&output),
        "--report",
    ]);
    assert!(
        out.contains("sample 47  left at gate 0") && out.contains("GMAC/s"),
        "{out}"
    );
    let names = files(&output);
    assert!(names.contains(&"gate_0.npy".to_owned()), "{names:?}");
    assert!(
        names.contains(&"logits.samples.npy".to_owned()),
        "{names:?}"
    );
    for way in ["--dense", "--reference"] {
        let all = dir.path().join(way);
        good(&["run", KWS, "--input", MFCC, "--output", text(&all), way]);
        assert_eq!(files(&all).len(), 7);
        let bytes = |d: &Path| fs::read(d.join("mask_0.npy")).unwrap();
        let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/expected");
        let expected = fs::read(expected.join("kws_dynamic.mask_0.npy")).unwrap();
        let data = 48 * 64 * 4;
        assert!(bytes(&all)[..].ends_with(&expected[expected.len() - data..]));
    }
}

#[test]
fn run_refuses_wrong_inputs_and_leaves_nothing() {
    let dir = folder();
    let output = dir.path().join("out");
    let run = |input: &str, words: &[&str]| {
        bad(
            &["run", KWS, "--input", input, "--output", text(&output)],
            words,
        );
        assert!(!output.exists());
    };
    let given = |name: &str, content: &[u8]| format!("input={}", text(&write(&dir, name, content)));
    run(
        "sound=models/expected/mfcc.npy",
        &[KWS, "`input`", "missing"],
    );
    run("input=no/such.npy", &["`input`", "no/such.npy"]);
    run(
        &given("a.npy", &npy("<f8", "(1,)", &[0; 8])),
        &["a.npy", "f64"],
    );
    run(
        &given("b.npy", &npy("<i8", "(1, 1, 49, 10)", &[0; 3920])),
        &["`input`", "i64", "f32"],
    );
    run(
        &given("c.npy", &npy("<f4", "(1, 2, 3)", &[0; 24])),
        &["`input`", "[1, 2, 3]"],
    );
    run(
        &given("d.npy", &npy("<f4", "(1, 1, 49, 10)", &[0; 7])),
        &["d.npy", "7 bytes"],
    );
    run(&given("e.npy", b"PK"), &["e.npy", "not an NPY file"]);
    let both = [
        "run",
        KWS,
        "--input",
        MFCC,
        "--input",
        "extra=models/expected/mfcc.npy",
    ];
    for way in [&[][..], &["--reference"]] {
        bad(
            &[&both[..], &["--output", text(&output)], way].concat(),
            &["`extra`"],
        );
    }
    // A file stands where the folder should be.
    let file = write(&dir, "file", b"content");
    bad(
        &["run", KWS, "--input", MFCC, "--output", text(&file)],
        &["output folder", "file"],
    );
    assert_eq!(fs::read(&file).unwrap(), b"content");
    // One output cannot be written: none is.
    fs::create_dir_all(output.join("gate_1.npy/in the way")).unwrap();
    bad(
        &[
            "run",
            KWS,
            "--input",
            MFCC,
            "--output",
            text(&output),
            "--dense",
        ],
        &["gate_1.npy"],
    );
    let left = files(&output);
    assert!(left.iter().all(|f| !f.starts_with('.')), "{left:?}");
}

#[test]
fn inspect_tells_what_is_skipped() {
    let out = good(&["inspect", KWS]);
    for word in [
        "logits",
        "Depthwise",
        "skips dead inputs",
        "MACs a sample",
        "0.430715",
    ] {
        assert!(out.contains(word), "{word}: {out}");
    }
    let four = good(&["inspect", KWS, "--shape", "input=4x1x49x10"]);
    assert!(four.contains("[4, 1, 49, 10]"), "{four}");
    bad(
        &["inspect", KWS, "--shape", "input=4x1x49"],
        &[KWS, "`input`", "[4, 1, 49]"],
    );
    bad(
        &["inspect", KWS, "--shape", "sound=1"],
        &["`sound`", "the inputs are input"],
    );
    let huge = "input=9999999999x9999999999x1x1";
    bad(&["inspect", KWS, "--shape", huge], &["too many elements"]);
}

#[test]
fn instruction_sets_can_be_capped_and_pinned() {
    assert!(good(&["kernels"]).contains("f32_gemm"));
    for name in ["SLUICEGATE_ISA", "SLUICEGATE_MAX_ISA"] {
        let output = with_env(&["kernels"], &[(name, "portable")]);
        assert!(stdout(&output).contains("portable   4 floats a vector  active"));
        check_bad(&with_env(&["kernels"], &[(name, "mmx")]), &["mmx"]);
    }
    let clip = [
        "listen",
        KWS,
        "models/clips/00_yes.wav",
        "--json",
        "--rounds=1",
    ];
    let output = with_env(&clip, &[("SLUICEGATE_ISA", "portable")]);
    assert!(stdout(&output).contains("\"isa\": \"portable\""));
}

#[test]
fn check_counts_and_goes_on() {
    let dir = folder();
    let case = |name: &str, model: &[u8], files: &[(&str, Vec<u8>)]| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("model.onnx"), model).unwrap();
        for (name, content) in files {
            fs::write(path.join(name), content).unwrap();
        }
    };
    let floats = |values: [f32; 2]| npy("<f4", "(2,)", &values.map(f32::to_le_bytes).concat());
    let relu = one_node("Relu");
    let (x, y) = (floats([-1.0, 2.0]), floats([0.0, 2.0]));
    case(
        "a/pass",
        &relu,
        &[("in_0.npy", x.clone()), ("out_0.npy", y.clone())],
    );
    assert!(good(&["check", text(dir.path())]).ends_with("1 passed, 0 failed, 0 unsupported\n"));

    let wrong = floats([0.0, 3.0]);
    case(
        "a/wrong",
        &relu,
        &[("in_0.npy", x.clone()), ("out_0.npy", wrong)],
    );
    case("b/cut", &relu[..20], &[("out_0.npy", y.clone())]);
    case("b/no input", &relu, &[("out_0.npy", y.clone())]);
    case("b/no output", &relu, &[("in_0.npy", x.clone())]);
    case(
        "b/other",
        &one_node("Mish"),
        &[("in_0.npy", x.clone()), ("out_0.npy", y.clone())],
    );
    let double = npy("<f8", "(2,)", &[0; 16]);
    case("b/double", &relu, &[("in_0.npy", double), ("out_0.npy", y)]);
    for way in [&["--jobs=3"][..], &["--reference"]] {
        let output = sluicegate(&[&["check", text(dir.path())], way].concat());
        let out = stdout(&output);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            out.ends_with("1 passed, 4 failed, 2 unsupported\n"),
            "{out}"
        );
        assert!(
            out.contains("a/wrong: output `y`: 1 of 2 elements differ, max error 1.000e0"),
            "{out}"
        );
        assert!(
            out.contains("Mish") && out.contains("f64") && !out.contains("a/pass"),
            "{out}"
        );
    }
    bad(&["check", "no/such/folder"], &["no/such/folder"]);
    bad(
        &[
            "check",
            text(&dir.path().join("a/pass/../../c")),
            text(folder().path()),
        ],
        &["c"],
    );
    bad(&["check", text(folder().path())], &["model.onnx"]);
}

#[test]
fn usage_errors_have_code_two() {
    for args in [
        &["sing"][..],
        &["listen", "--threshold=2"],
        &["listen", "--hop=0"],
        &["run", KWS],
        &["run", KWS, "--input", "input", "--output", "x"],
        &["inspect", KWS, "--shape", "input=1xx2"],
        &["check"],
        &["check", "x", "--rtol=-1"],
    ] {
        assert_eq!(sluicegate(args).status.code(), Some(2), "{args:?}");
    }
    assert!(good(&["--help"]).contains("SLUICEGATE_MAX_ISA"));
}
