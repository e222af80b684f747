//! Inputs that `score` refuses, and the messages.

use crate::score::{noise, npy, texts};
use crate::support::World;

#[test]
fn bad_input_is_named() {
    let world = World::new();
    texts(&world);
    world.write("empty.txt", "");
    world.write("blank.txt", "\n \n\n");
    world.write("bad.txt", b"fine\nwat\xe9r\n");
    world.write("short.txt", "the cat sat\non the mat\n");
    world.write("two.csv", "a,b\nx,y\n");
    world.write("bad.jsonl", "{\"text\":\"a\"}\n{\"prompt\":\"a\"}\n");
    world.write("p.npy", npy(30, 6, |i, j| noise(i, j, 1)));
    world.write("wide.npy", npy(30, 7, |i, j| noise(i, j, 1)));
    world.write("nan.npy", npy(30, 6, |i, _| if i == 3 { f32::NAN } else { 1.0 }));
    let mut huge = npy(1, 6, |_, _| 0.0);
    let at = huge.windows(2).position(|w| w == b"(1").unwrap();
    huge.splice(at + 1..at + 2, *b"9999999999999");
    let length = u16::from_le_bytes([huge[8], huge[9]]) + 12;
    huge[8..10].copy_from_slice(&length.to_le_bytes());
    world.write("huge.npy", huge);
    let before = world.snapshot();
    for (flags, words) in [
        ("--human empty.txt --model-text good.txt", ["`empty.txt` is empty", ""]),
        ("--human human.txt --model-text blank.txt", ["`blank.txt` contains no text", ""]),
        ("--human human.txt --model-text bad.txt", ["`bad.txt` line 2, byte 4", "UTF-8"]),
        ("--human human.txt --model-text bad.jsonl", ["`bad.jsonl` line 2", "no key `text`"]),
        ("--human human.txt --model-text nowhere.txt", ["nowhere.txt", ""]),
        ("--human human.txt", ["--model-text", ""]),
        ("--model-text good.txt", ["--human", ""]),
        ("--human human.txt --model-text good.txt --metrics beauty", ["beauty", "diversity"]),
        ("--human human.txt --model-text good.txt --mauve-seeds 0", ["`--mauve-seeds`", "got `0`"]),
        ("--human human.txt --model-text good.txt --resamples 999999999999", ["`--resamples`", "at most"]),
        (
            "--human human.txt --model-text good.txt --metrics coherence --embedder model",
            ["`model_type`", "`gpt2`"],
        ),
        (
            "--human human.txt --model-text good.txt --metrics controlled-mauve --window-tokens 20 --featurizer model",
            ["`--window-tokens`", "prompt of 37 words"],
        ),
        (
            "--human human.txt --model-text good.txt --metrics controlled-mauve --windows 1 --featurizer model",
            ["`--windows`", "got `1`"],
        ),
        (
            "--human human.txt --model-text short.txt --metrics coherence --compat authors --embedder {fixtures}/encoder",
            ["expected 40 texts in `short`, got 2", ""],
        ),
        ("--human human.txt --model-text two.csv", ["two.csv", "hint: choose the text column"]),
        ("--human human.txt --model-text *.nothing", ["*.nothing", ""]),
        ("--human human.txt --model-text good.txt --confidence 95", ["`--confidence`", "between 0 and 1"]),
        ("--human-features p.npy --model-features wide.npy", ["MAUVE of `wide`", "6 columns"]),
        ("--human-features p.npy --model-features nan.npy", ["row 3, column 0", "`NaN`"]),
        ("--human-features p.npy --model-features huge.npy", ["huge.npy", "9999999999999 x 6"]),
        ("--human-features p.npy --model-features human.txt", ["human.txt", "`.npy` or `.safetensors`"]),
        (
            "--human-features p.npy --model-features p.npy --metrics diversity",
            ["`diversity` needs texts", ""],
        ),
        (
            "--human-features p.npy --model-features p.npy --mauve-buckets 100",
            ["100 buckets", "hint: score more"],
        ),
    ] {
        world.run(&format!("score {flags}")).refused(&words);
    }
    assert!(world.snapshot() == before, "something was written");
}
