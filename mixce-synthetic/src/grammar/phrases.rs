//! Noun phrases, places and verb phrases, the shared parts of the stories.

use super::expr::{Expr, choice, maybe, phrase, seq, sequence, word, zipf, zipf_weight, zipf_word};
use super::lexicon::{Forms, Gender, Lexicon, Number};
use Number::{Plural, Singular};

/// The form of a noun or verb that fits `number`.
pub(super) fn form(number: Number, (singular, plural): Forms) -> &'static str {
    number.pick(singular, plural)
}

/// One noun or verb of a list, in the form that fits `number`.
fn any(number: Number, list: &[Forms]) -> Expr {
    zipf(list.iter().copied(), |forms| word(form(number, forms)))
}

/// "a" or "an", whichever fits the next word.
pub(super) fn article(next: &str) -> Expr {
    word(if next.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

/// Who does something: what the verb and later words must agree with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agent {
    pub(super) number: Number,
    /// Known for a named person alone: "she", "her".
    pub(super) gender: Option<Gender>,
    /// The pronoun inside a sentence.
    pub(super) pronoun: &'static str,
    /// The pronoun at the start of a sentence.
    pub(super) opening_pronoun: &'static str,
}

impl Agent {
    /// One named person.
    pub(super) fn person(gender: Gender) -> Self {
        Self {
            number: Singular,
            gender: Some(gender),
            pronoun: gender.pick("she", "he"),
            opening_pronoun: gender.pick("She", "He"),
        }
    }

    /// One animal.
    pub(super) const ANIMAL: Self =
        Self { number: Singular, gender: None, pronoun: "it", opening_pronoun: "It" };

    /// Several of any kind.
    pub(super) const MANY: Self =
        Self { number: Plural, gender: None, pronoun: "they", opening_pronoun: "They" };

    /// "is" or "are".
    pub(super) fn be(self) -> &'static str {
        self.number.pick("is", "are")
    }

    /// "her", "his", "its" or "their".
    pub(super) fn possessive(self) -> &'static str {
        match (self.number, self.gender) {
            (Plural, _) => "their",
            (Singular, Some(gender)) => gender.pick("her", "his"),
            (Singular, None) => "its",
        }
    }

    /// "her", "him", "it" or "them": the pronoun as an object.
    pub(super) fn object(self) -> &'static str {
        match (self.number, self.gender) {
            (Plural, _) => "them",
            (Singular, Some(gender)) => gender.pick("her", "him"),
            (Singular, None) => "it",
        }
    }
}

/// The phrases of a lexicon; each is built once and shared.
pub(super) struct Phrases {
    pub(super) lexicon: Lexicon,
    /// "in the quiet garden", "near the mills".
    pub(super) place: Expr,
    /// "near the old mill": a place whose noun may differ in number from the subject before it.
    pub(super) landmark: Expr,
    /// "to the bridge".
    goal: Expr,
    /// "every morning".
    pub(super) time: Expr,
    /// "the small geese".
    pub(super) animals: Expr,
}

impl Phrases {
    pub(super) fn new(lexicon: Lexicon) -> Self {
        let landmark_noun =
            choice([(0.7, any(Singular, lexicon.landmarks)), (0.3, any(Plural, lexicon.landmarks))]);
        let place_adjective = maybe(0.25, zipf_word(lexicon.place_adjectives));
        let landmark = seq![
            choice([(0.5, word("near")), (0.3, word("behind")), (0.2, word("beside"))]),
            "the",
            &place_adjective,
            landmark_noun
        ];
        let room = seq!["in the", &place_adjective, zipf_word(lexicon.rooms)];
        let goal = seq![
            "to the",
            choice([(0.6, zipf_word(lexicon.rooms)), (0.4, any(Singular, lexicon.landmarks))])
        ];
        let animals = seq![
            "the",
            maybe(0.3, zipf_word(lexicon.animal_adjectives)),
            choice([(0.5, any(Singular, lexicon.animals)), (0.5, any(Plural, lexicon.animals))])
        ];
        Self {
            lexicon,
            place: choice([(0.6, room), (0.4, landmark.clone())]),
            landmark,
            goal,
            time: zipf(lexicon.times.iter().copied(), phrase),
            animals,
        }
    }

    /// "key" or "red key": a thing in the singular.
    pub(super) fn thing(&self) -> Expr {
        seq![maybe(0.35, zipf_word(self.lexicon.thing_adjectives)), any(Singular, self.lexicon.things)]
    }

    /// "a key", "an old key": the article fits the word after it.
    pub(super) fn a_thing(&self, thing: &'static str) -> Expr {
        let adjectives = self.lexicon.thing_adjectives.iter().enumerate();
        choice([
            (0.6, seq![article(thing), thing]),
            (
                0.4,
                choice(adjectives.map(|(rank, adjective)| {
                    (zipf_weight(rank), seq![article(adjective), word(adjective), word(thing)])
                })),
            ),
        ])
    }

    /// "sleep in the garden", "walks to the mill".
    pub(super) fn rest_or_move(&self, number: Number) -> Expr {
        choice([
            (0.6, seq![any(number, self.lexicon.resting), maybe(0.8, self.place.clone())]),
            (0.4, seq![any(number, self.lexicon.moving), &self.goal]),
        ])
    }

    /// What people do: "feeds the geese", "mend their old boat", "talks to herself".
    pub(super) fn person_does(&self, agent: Agent) -> Expr {
        let number = agent.number;
        let owner = choice([(0.5, word("the")), (0.5, word(agent.possessive()))]);
        let oneself = match (number, agent.gender) {
            (Plural, _) => Some("themselves"),
            (Singular, Some(gender)) => Some(gender.pick("herself", "himself")),
            (Singular, None) => None,
        };
        // Without a gender ("the baker") no possessive and no reflexive fits.
        let owner = if number == Singular && agent.gender.is_none() { word("the") } else { owner };
        let to_self = oneself.map(|word| (0.06, seq![number.pick("talks to", "talk to"), word]));
        choice(
            [
                (0.35, seq![any(number, self.lexicon.towards_animals), &self.animals]),
                (0.3, seq![any(number, self.lexicon.towards_things), owner, self.thing()]),
                (0.29, self.rest_or_move(number)),
            ]
            .into_iter()
            .chain(to_self),
        )
    }

    /// What animals do: "chases the hens", "sleep in the garden", "steals the key".
    pub(super) fn animal_does(&self, number: Number) -> Expr {
        choice([
            (0.4, seq![any(number, self.lexicon.among_animals), &self.animals]),
            (0.5, self.rest_or_move(number)),
            (0.1, seq![number.pick("steals the", "steal the"), self.thing()]),
        ])
    }

    /// What is added between a noun in `number` and its verb, so that they agree over a distance: "near the mills",
    /// "that live behind the barn", "that Anna feeds", "that the children love".
    pub(super) fn between(&self, number: Number, relative: &'static str) -> Expr {
        let lexicon = &self.lexicon;
        let lives = seq![relative, number.pick("lives", "live"), &self.place];
        let named = seq![
            "that",
            zipf(lexicon.people.iter(), |(name, _)| word(name)),
            any(Singular, lexicon.towards_animals)
        ];
        let unnamed = seq!["that the", self.observers(),];
        choice([(0.4, self.landmark.clone()), (0.25, lives), (0.2, named), (0.15, unnamed)])
    }

    /// "children love", "baker feeds": subject and verb inside a relative clause agree with each other.
    fn observers(&self) -> Expr {
        let side = |number| seq![any(number, self.lexicon.trades), any(number, self.lexicon.towards_animals)];
        choice([(0.5, side(Singular)), (0.5, side(Plural))])
    }

    /// "happy", one mood.
    pub(super) fn mood(&self) -> Expr {
        zipf_word(self.lexicon.moods)
    }

    /// What closes a first sentence: nothing, a time, or "because she is tired".
    pub(super) fn close(&self, agent: Agent) -> Expr {
        choice([
            (0.55, sequence([])),
            (0.3, self.time.clone()),
            (0.15, seq!["because", agent.pronoun, agent.be(), self.mood()]),
        ])
    }

    /// "sleep", "sing": what one may be too tired to do.
    pub(super) fn too_tired_to(&self) -> Expr {
        any(Plural, self.lexicon.resting)
    }
}
