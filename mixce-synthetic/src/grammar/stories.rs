//! The stories: sentences built from phrases, with features to remember passed as arguments.

use super::expr::{Expr, choice, seq, sequence, word, zipf, zipf_weight, zipf_word};
use super::lexicon::{Gender, Lexicon, Number, Person};
use super::phrases::{Agent, Phrases, form};
use Number::{Plural, Singular};

/// The whole grammar over `lexicon`.
pub(super) fn stories(lexicon: Lexicon) -> Expr {
    let phrases = Phrases::new(lexicon);
    choice([
        (0.24, about_animals(&phrases)),
        (0.1, about_trades(&phrases)),
        (0.3, about_someone(&phrases)),
        (0.24, about_a_thing(&phrases)),
        (0.12, about_a_pair(&phrases)),
    ])
}

/// "The foxes behind the barn sleep in the garden. They are shy."
fn about_animals(phrases: &Phrases) -> Expr {
    let side = |number: Number| {
        let agent = number.pick(Agent::ANIMAL, Agent::MANY);
        let nouns = zipf(phrases.lexicon.animals.iter(), |forms| word(form(number, *forms)));
        let adjective = zipf_word(phrases.lexicon.animal_adjectives);
        let subject = choice([(0.65, nouns.clone()), (0.35, seq![adjective, nouns])]);
        let between = choice([(0.3, sequence([])), (0.7, phrases.between(number, "that"))]);
        seq![
            "The",
            subject,
            between,
            phrases.animal_does(number),
            phrases.close(agent),
            ".",
            choice([(0.5, sequence([])), (0.5, what_follows(phrases, agent))])
        ]
    };
    choice([(0.5, side(Singular)), (0.5, side(Plural))])
}

/// "The baker who lives near the mills paints the hens. The baker is proud." One person is named again, as no
/// pronoun is known to fit; several are "They".
fn about_trades(phrases: &Phrases) -> Expr {
    let told = |number: Number, noun: &'static str| {
        let agent = number.pick(Agent::ANIMAL, Agent::MANY);
        let again = match number {
            Singular => seq!["The", noun, "is", phrases.mood(), "."],
            Plural => what_follows(phrases, Agent::MANY),
        };
        let between = choice([
            (0.4, sequence([])),
            (0.3, phrases.landmark.clone()),
            (0.3, seq!["who", number.pick("lives", "live"), &phrases.place]),
        ]);
        let time = choice([(0.6, sequence([])), (0.4, phrases.time.clone())]);
        let ending = choice([(0.5, sequence([])), (0.5, again)]);
        seq!["The", noun, between, phrases.person_does(agent), time, ".", ending]
    };
    zipf(phrases.lexicon.trades.iter(), |forms| {
        choice([(0.5, told(Singular, forms.0)), (0.5, told(Plural, forms.1))])
    })
}

/// "Anna, who lives near the old mill, feeds the geese. She is tired."
fn about_someone(phrases: &Phrases) -> Expr {
    // Built once for each gender, not for each name: the automaton shares what is equal.
    let first = |gender: Gender| {
        let agent = Agent::person(gender);
        let who = seq![", who lives", &phrases.place, ","];
        let does = phrases.person_does(agent);
        seq![choice([(0.7, sequence([])), (0.3, who)]), does, phrases.close(agent), "."]
    };
    let firsts = (first(Gender::She), first(Gender::He));
    zipf(phrases.lexicon.people.iter(), |(name, gender)| {
        let agent = Agent::person(*gender);
        let ending = choice([
            (0.25, sequence([])),
            (0.4, what_follows(phrases, agent)),
            (0.35, named_again(phrases, name)),
        ]);
        seq![*name, gender.pick(&firsts.0, &firsts.1), ending]
    })
}

/// A second sentence with the pronoun of `agent`.
fn what_follows(phrases: &Phrases, agent: Agent) -> Expr {
    let lexicon = &phrases.lexicon;
    let opening = agent.opening_pronoun;
    choice([
        (0.4, seq![opening, agent.be(), phrases.mood(), "."]),
        (0.2, seq![opening, agent.be(), "too", phrases.mood(), "to", phrases.too_tired_to(), "."]),
        (0.2, seq!["Then", agent.pronoun, phrases.rest_or_move(agent.number), "."]),
        (0.1, seq!["Nobody sees", agent.object(), "."]),
        (
            0.1,
            seq![
                zipf(lexicon.people.iter(), |(name, _)| word(name)),
                choice([(0.7, word("likes")), (0.3, word("misses"))]),
                agent.object(),
                "."
            ],
        ),
    ])
}

/// A last sentence with the name from the start.
fn named_again(phrases: &Phrases, name: &'static str) -> Expr {
    choice([
        (0.3, seq!["Now", name, "is", phrases.mood(), "."]),
        (0.2, seq!["Everybody loves", name, "."]),
        (0.15, seq!["Only", name, "knows why."]),
        (
            0.35,
            seq![
                "The",
                zipf(phrases.lexicon.animals.iter(), |forms| {
                    choice([
                        (0.5, seq![word(forms.0), choice([(0.6, word("follows")), (0.4, word("loves"))])]),
                        (0.5, seq![word(forms.1), choice([(0.6, word("follow")), (0.4, word("love"))])]),
                    ])
                }),
                name,
                "."
            ],
        ),
    ])
}

/// "Tom finds a red key in the attic. The key is wet. He gives the key to Anna."
fn about_a_thing(phrases: &Phrases) -> Expr {
    let people = phrases.lexicon.people;
    zipf(people.iter(), |person| {
        zipf(phrases.lexicon.things.iter(), |(thing, _)| {
            let described = seq![
                "The",
                *thing,
                choice([(0.7, word("is")), (0.3, word("looks"))]),
                zipf_word(phrases.lexicon.conditions),
                "."
            ];
            seq![
                person.0,
                choice([(0.5, word("finds")), (0.3, word("buys")), (0.2, word("makes"))]),
                phrases.a_thing(thing),
                choice([(0.3, sequence([])), (0.7, phrases.place.clone())]),
                ".",
                choice([
                    (0.35, described.clone()),
                    (0.4, what_becomes_of(phrases, *person, thing)),
                    (0.25, seq![described, what_becomes_of(phrases, *person, thing)]),
                ])
            ]
        })
    })
}

/// "He gives the key to Anna.": the finder's pronoun, the thing, and somebody else.
fn what_becomes_of(phrases: &Phrases, (name, gender): Person, thing: &'static str) -> Expr {
    let others = phrases.lexicon.people.iter().enumerate().filter(|(_, (other, _))| *other != name);
    let somebody = choice(others.map(|(rank, (other, _))| (zipf_weight(rank), word(other))));
    let pronoun = gender.pick("She", "He");
    choice([
        (0.45, seq![pronoun, "gives the", thing, "to", somebody, "."]),
        (0.2, seq![pronoun, "keeps the", thing, "."]),
        (0.2, seq![pronoun, "hides the", thing, &phrases.landmark, "."]),
        (0.15, seq!["Now the", thing, "belongs to", name, "."]),
    ])
}

/// "Anna and Tom carry their boat to the river. Anna is happy, but Tom is not."
fn about_a_pair(phrases: &Phrases) -> Expr {
    let paired = phrases.lexicon.people.get(..phrases.lexicon.paired).unwrap_or(phrases.lexicon.people);
    let first = seq![phrases.person_does(Agent::MANY), phrases.close(Agent::MANY), "."];
    let pairs = paired.iter().enumerate().flat_map(|(i, left)| {
        paired.iter().enumerate().filter(move |(j, _)| i != *j).map(move |(j, right)| (i, left, j, right))
    });
    choice(pairs.map(|(i, (left, _), j, (right, _))| {
        let apart = seq![*left, "is", phrases.mood(), ", but", *right, "is not ."];
        let ending = choice([(0.3, sequence([])), (0.4, what_follows(phrases, Agent::MANY)), (0.3, apart)]);
        (zipf_weight(i) * zipf_weight(j), seq![*left, "and", *right, &first, ending])
    }))
}
