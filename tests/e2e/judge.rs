//! Human evaluation.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::World;

const MAKE: &str = "judge make --human human.jsonl --systems a.jsonl other=b.jsonl --items 4 --judges-per-item 1 --attention 1 --seed 3";

fn world() -> World {
    let world = World::new();
    let rows = |count: usize, text: &str| -> String {
        (0..count).map(|i| json!({"prompt": format!("p{i}"), "text": text}).to_string() + "\n").collect()
    };
    world.write("human.jsonl", rows(8, "one two three four five six seven eight nine"));
    world.write("a.jsonl", rows(5, "\u{1b}[31m a"));
    world.write("b.jsonl", rows(5, "b"));
    world
}

#[test]
fn studies_are_made_and_bad_flags_are_named() {
    let world = world();
    let made = world.run(&format!("{MAKE} --out study --json")).row();
    assert_eq!(
        (&made["systems"], &made["comparisons"], &made["seed"]),
        (&json!(["a", "other"]), &json!(4), &json!(3))
    );
    let text = world.run(&format!("{MAKE} --out again")).success().stdout;
    assert_eq!(text, "comparisons 4, attention checks 1, judges 1, judges per comparison 1: `again`\n");
    assert_eq!(world.read("study/study.json"), world.read("again/study.json"));
    world.run(&format!("{MAKE} --out study")).refused(&["study"]);
    world
        .run(&MAKE.replace("--items 4", "--items 6 --out x"))
        .refused(&["`--items`: expected at most the 5 prompts", "got `6`"]);
    world.run(&format!("{MAKE} --out x --scale 4")).refused(&["`--scale`: expected 3 or 5, got `4`"]);
    world
        .run(&MAKE.replace("b.jsonl", "human.jsonl --out x"))
        .refused(&["`a.jsonl` has no row for the prompt `p5`", "hint: "]);
    world.run("judge report x").refused(&["cannot read `x/study.json`"]);
    world
        .run("judge serve study --host nowhere")
        .refused(&["`--host`: expected `localhost` or an IP address"]);
}

#[cfg(unix)]
#[test]
fn answers_go_from_the_page_to_the_report() {
    let world = world();
    world.run(&format!("{MAKE} --out study")).success();
    let mut program =
        world.command("judge serve study --port 0 --json").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let serving: Value = serde_json::from_str(&line).unwrap();
    let address = serving["address"].as_str().unwrap().trim_start_matches("http://");
    let url = serving["links"][0]["url"].as_str().unwrap();
    let path = &url[url.find("/j/").unwrap()..];
    let post = |path: &str, form: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close";
        let length = form.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{form}"
        )
        .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 303"), "{response}");
    };
    post(&format!("{path}/begin"), "");
    for number in 1..=5 {
        post(&format!("{path}/task/{number}"), "choice=0&note=same");
    }
    let report = world.run("judge report study --json").row();
    assert_eq!((&report["answered"], &report["all"]["pairs"][0]["counts"]), (&json!(5), &json!([0, 4, 0])));
    // No difference fails the check.
    assert_eq!(report["judges"][0]["dropped"], true);
    assert!(Command::new("kill").args(["-TERM", &program.id().to_string()]).status().unwrap().success());
    assert_eq!(program.wait().unwrap().code(), Some(0));

    judgements_are_reported(&world);
    let exported = world.run("judge export study").rows();
    assert_eq!(exported.len(), 5);
    world.run("judge export study --out answers.jsonl").success();
    assert_eq!(world.rows("answers.jsonl"), exported);
    world.run("judge export study --out answers.jsonl").refused(&["output file `answers.jsonl` exists"]);
    let text = world.run("judge report study --items").success().stdout;
    for words in [
        "5 of 5 tasks answered",
        "without judges who failed",
        "inattentive",
        "item 0\n    p",
        "judge 1 -> no difference \"same\"",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
}

/// The results of the study, on the page of a run.
fn judgements_are_reported(world: &World) {
    world.write("run/run.toml", "model = \"gpt2\"\nobjective = \"mle\"\n");
    world.write("run/metrics.jsonl", "{\"step\":1,\"nll\":3.0}\n{\"step\":2,\"nll\":2.0}\n");
    world.run("report run --judge human.jsonl --out page").refused(&["human.jsonl"]);
    world.run("report run --judge study --out judged --resamples 50").success();
    let table = world.text("judged/tables/judged-study.csv");
    assert!(table.contains("\na against other,all,4,4,0,0,0,1,1,1,"), "{table}");
    assert!(table.contains("a against other,attentive,0,0,,,,"), "{table}");
    let figure = world.text("judged/figures/preferences-study.svg");
    assert!(figure.contains("no difference") && figure.contains("class=\"fill\""), "{figure}");
    let told: Value = serde_json::from_str(&world.text("judged/report.json")).unwrap();
    assert_eq!(told["judged"][0]["report"]["answered"], 5);
    let page = world.text("judged/index.html");
    for words in [
        "Human judgement: study",
        "100 % [100 %, 100 %] see no difference",
        "All 5 items of study",
        "[U+001B]",
        "\u{201c}same\u{201d}",
    ] {
        assert!(page.contains(words), "{words}");
    }
    crate::report::keep(world, "judged");
}
