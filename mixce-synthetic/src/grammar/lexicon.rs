//! The words, sorted from common to rare: the rank of a word decides its weight (Zipf's law).

/// Grammatical number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Singular,
    Plural,
}

impl Number {
    /// `singular` or `plural`, whichever fits.
    pub(super) fn pick<T>(self, singular: T, plural: T) -> T {
        match self {
            Self::Singular => singular,
            Self::Plural => plural,
        }
    }
}

/// Gender of a person, and so of every pronoun that refers to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gender {
    She,
    He,
}

impl Gender {
    /// `she` or `he`, whichever fits.
    pub(super) fn pick<T>(self, she: T, he: T) -> T {
        match self {
            Self::She => she,
            Self::He => he,
        }
    }
}

/// Singular and plural of a noun, or of a verb in the third person.
pub(super) type Forms = (&'static str, &'static str);
/// A name and its gender.
pub(super) type Person = (&'static str, Gender);

/// All word classes; each list is sorted from common to rare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexicon {
    pub(super) people: &'static [Person],
    /// How many of `people` appear in pairs ("Anna and Tom").
    pub(super) paired: usize,
    pub(super) animals: &'static [Forms],
    pub(super) trades: &'static [Forms],
    pub(super) things: &'static [Forms],
    pub(super) rooms: &'static [&'static str],
    pub(super) landmarks: &'static [Forms],
    pub(super) animal_adjectives: &'static [&'static str],
    pub(super) thing_adjectives: &'static [&'static str],
    pub(super) place_adjectives: &'static [&'static str],
    pub(super) moods: &'static [&'static str],
    pub(super) conditions: &'static [&'static str],
    pub(super) resting: &'static [Forms],
    pub(super) moving: &'static [Forms],
    pub(super) towards_animals: &'static [Forms],
    pub(super) among_animals: &'static [Forms],
    pub(super) towards_things: &'static [Forms],
    pub(super) times: &'static [&'static str],
}

/// The first `count` items of a list, or all.
fn first<T>(items: &'static [T], count: usize) -> &'static [T] {
    items.get(..count).unwrap_or(items)
}

impl Lexicon {
    /// The whole lexicon with every list cut to its first `count` items (people to at least two, so that one can
    /// give something to another).
    pub(super) fn first(count: usize) -> Self {
        Self {
            people: first(PEOPLE, count.max(2)),
            paired: PAIRED.min(count.max(2)),
            animals: first(ANIMALS, count),
            trades: first(TRADES, count),
            things: first(THINGS, count),
            rooms: first(ROOMS, count),
            landmarks: first(LANDMARKS, count),
            animal_adjectives: first(ANIMAL_ADJECTIVES, count),
            thing_adjectives: first(THING_ADJECTIVES, count),
            place_adjectives: first(PLACE_ADJECTIVES, count),
            moods: first(MOODS, count),
            conditions: first(CONDITIONS, count),
            resting: first(RESTING, count),
            moving: first(MOVING, count),
            towards_animals: first(TOWARDS_ANIMALS, count),
            among_animals: first(AMONG_ANIMALS, count),
            towards_things: first(TOWARDS_THINGS, count),
            times: first(TIMES, count),
        }
    }

    /// The whole lexicon.
    pub(super) fn full() -> Self {
        Self::first(usize::MAX)
    }
}

/// Groups of function words that are easily mistaken for each other; no word is in two.
pub(super) const SLIPS: &[&[&str]] = &[
    &["she", "he", "it", "they"],
    &["She", "He", "It", "They"],
    &["her", "his", "its", "their", "him", "them"],
    &["herself", "himself", "themselves"],
    &["is", "are"],
    &["lives", "live"],
    &["a", "an"],
];

/// See [`Lexicon::paired`].
const PAIRED: usize = 8;

const PEOPLE: &[Person] = &[
    ("Anna", Gender::She),
    ("Tom", Gender::He),
    ("Mara", Gender::She),
    ("Otto", Gender::He),
    ("Nora", Gender::She),
    ("Ben", Gender::He),
    ("Ida", Gender::She),
    ("Paul", Gender::He),
    ("Lucy", Gender::She),
    ("Emil", Gender::He),
    ("Rosa", Gender::She),
    ("Hugo", Gender::He),
    ("Greta", Gender::She),
    ("Simon", Gender::He),
    ("Clara", Gender::She),
    ("Felix", Gender::He),
];

const ANIMALS: &[Forms] = &[
    ("dog", "dogs"),
    ("cat", "cats"),
    ("goose", "geese"),
    ("fox", "foxes"),
    ("hen", "hens"),
    ("crow", "crows"),
    ("goat", "goats"),
    ("mouse", "mice"),
    ("owl", "owls"),
    ("pony", "ponies"),
    ("frog", "frogs"),
    ("hare", "hares"),
];

const TRADES: &[Forms] = &[
    ("child", "children"),
    ("baker", "bakers"),
    ("farmer", "farmers"),
    ("sailor", "sailors"),
    ("teacher", "teachers"),
    ("painter", "painters"),
    ("shepherd", "shepherds"),
    ("thief", "thieves"),
];

const THINGS: &[Forms] = &[
    ("key", "keys"),
    ("lamp", "lamps"),
    ("coat", "coats"),
    ("letter", "letters"),
    ("boat", "boats"),
    ("basket", "baskets"),
    ("bell", "bells"),
    ("kite", "kites"),
    ("umbrella", "umbrellas"),
    ("coin", "coins"),
    ("drum", "drums"),
    ("map", "maps"),
    ("button", "buttons"),
    ("clock", "clocks"),
];

/// Places to be in.
const ROOMS: &[&str] =
    &["garden", "kitchen", "forest", "village", "attic", "harbour", "orchard", "cellar", "meadow", "stable"];

/// Places to be near.
const LANDMARKS: &[Forms] = &[
    ("mill", "mills"),
    ("bridge", "bridges"),
    ("barn", "barns"),
    ("well", "wells"),
    ("tower", "towers"),
    ("gate", "gates"),
    ("pond", "ponds"),
    ("lighthouse", "lighthouses"),
];

const ANIMAL_ADJECTIVES: &[&str] =
    &["small", "grey", "hungry", "shy", "clever", "wild", "lame", "spotted", "noisy", "gentle"];

const THING_ADJECTIVES: &[&str] =
    &["red", "old", "broken", "heavy", "golden", "blue", "empty", "tiny", "wooden", "strange"];

const PLACE_ADJECTIVES: &[&str] = &["old", "dark", "quiet", "little", "snowy", "haunted"];

const MOODS: &[&str] =
    &["tired", "happy", "hungry", "afraid", "cold", "proud", "lonely", "late", "sleepy", "curious", "brave"];

/// What a thing may be found to be.
const CONDITIONS: &[&str] = &["broken", "wet", "heavy", "beautiful", "warm", "dusty", "useless", "magic"];

const RESTING: &[Forms] = &[
    ("sleeps", "sleep"),
    ("waits", "wait"),
    ("sings", "sing"),
    ("hides", "hide"),
    ("dances", "dance"),
    ("dreams", "dream"),
    ("shivers", "shiver"),
];

const MOVING: &[Forms] = &[
    ("runs", "run"),
    ("walks", "walk"),
    ("comes", "come"),
    ("hurries", "hurry"),
    ("wanders", "wander"),
    ("creeps", "creep"),
];

/// What people do to animals.
const TOWARDS_ANIMALS: &[Forms] = &[
    ("feeds", "feed"),
    ("loves", "love"),
    ("watches", "watch"),
    ("calls", "call"),
    ("paints", "paint"),
    ("scolds", "scold"),
];

/// What animals do to animals.
const AMONG_ANIMALS: &[Forms] = &[
    ("chases", "chase"),
    ("follows", "follow"),
    ("watches", "watch"),
    ("fears", "fear"),
    ("teases", "tease"),
];

/// What people do to things.
const TOWARDS_THINGS: &[Forms] = &[
    ("carries", "carry"),
    ("mends", "mend"),
    ("sells", "sell"),
    ("hides", "hide"),
    ("paints", "paint"),
    ("cleans", "clean"),
    ("forgets", "forget"),
];

const TIMES: &[&str] =
    &["every morning", "at night", "every evening", "at dawn", "in winter", "on Sundays", "after school"];
