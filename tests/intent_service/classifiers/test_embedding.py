"""What the bundled model and the shipped catalogue make of everyday messages.

None of the messages here is an example in the catalogue.
"""

import pytest

from intent_service.catalog import Catalog, CatalogIntent
from intent_service.classifiers.embedding import EmbeddingClassifier

SELF_HARM = [
    "I am going to kill myself",
    "I've been thinking about suicide a lot",
    "I don't want to be here anymore, I want to die",
    "I want my life to be over",
    "I am planning my suicide",
    "I can't stop cutting myself",
    "I want to harm myself right now",
    "there is no reason for me to stay alive",
    "the world would be better without me",
    "I'd be better off dead",
    "I'm thinking of jumping off the roof",
    "I want to hang myself",
    "I took too many pills because I want to die",
    "I just want the pain to end, I want to die",
    "I've made up my mind, tonight I end my life",
    "how many pills do I need to die",
    "sometimes I wish I wouldn't wake up in the morning",
    "I hate being alive",
    "I feel like killing myself after what happened",
    "everything is hopeless and I want to be dead",
    "I slit my wrist yesterday",
    "I am at the end, I do not want to live any more",
]
FORGET = [
    "please erase our chat",
    "I'd like to delete my conversation history",
    "can you wipe everything I said",
    "forget everything we talked about",
    "delete all my messages please",
    "please remove our chat history",
]
HARMLESS = [
    "I had a terrible day",
    "this queue is killing me",
    "I could kill for a pizza",
    "forget it, never mind",
    "I'd kill for some ice cream",
    "I'm dying for a cigarette",
    "my wife will kill me if I'm late",
    "the battery is dead again",
    "my aunt passed away",
    "I'm so stressed I can't sleep",
    "I want out of this contract",
    "the hero kills himself in the last act",
    "I have to take pills for my blood pressure",
    "can we end this conversation",
    "life sucks",
    "I'm bored to death",
    "I forgot what I wanted to say",
    "don't forget about me",
    "remember when we talked about cats?",
    "I lost all my photos",
    "what do you remember about me?",
]
EVERYDAY = {
    "hello": "greeting",
    "goodbye": "goodbye",
    "thank you very much": "thanks",
    "Hi, how are you?": "how_are_you",
    "what are you": "about_you",
    "what are you able to do": "help",
    "I'm so sad": "feeling_bad",
    "I'm feeling fantastic": "feeling_good",
    "got any jokes?": "joke",
    "you are the best": "compliment",
    "you're an idiot": "insult",
    "what is your favorite color": "ask_opinion",
    "give me some advice": "ask_advice",
    "I could eat pizza every day": "food",
    "my brother is visiting": "family_and_friends",
    "nice weather today": "weather",
}
FOREIGN = ["what is the capital of France", "1+1=?", "define photosynthesis", "who won the election in 1990"]


def fixed(classifier: EmbeddingClassifier, catalog: Catalog, text: str) -> str | None:
    """The label whose fixed reply this message would get."""
    verdict = classifier.classify([text], catalog)[0]
    label = verdict.ranking[0].label
    replies = {intent.label: intent.replies for intent in catalog.intents}[label]
    return label if verdict.sure and replies else None


@pytest.mark.parametrize(("texts", "label"), [(SELF_HARM, "self_harm"), (FORGET, "forget"), (HARMLESS, None)])
def test_fixed_replies_go_where_they_belong(
    minilm_classifier: EmbeddingClassifier, shipped: Catalog, texts: list[str], label: str | None
) -> None:
    examples = {example for intent in shipped.intents for example in intent.examples}
    assert not examples & set(texts)
    given = {text: fixed(minilm_classifier, shipped, text) for text in texts}
    assert given == dict.fromkeys(texts, label)


def test_everyday_talk_is_recognised(minilm_classifier: EmbeddingClassifier, shipped: Catalog) -> None:
    found = {}
    for text in EVERYDAY:
        verdict = minilm_classifier.classify([text], shipped)[0]
        found[text] = verdict.ranking[0].label if verdict.known else None
    assert found == EVERYDAY


@pytest.mark.parametrize("text", FOREIGN)
def test_what_fits_no_intent_is_not_known(
    minilm_classifier: EmbeddingClassifier, shipped: Catalog, text: str
) -> None:
    assert not minilm_classifier.classify([text], shipped)[0].known


def test_scores_are_probabilities_with_room_for_none_of_these(
    minilm_classifier: EmbeddingClassifier, shipped: Catalog
) -> None:
    near, far = (
        [ranked.score for ranked in minilm_classifier.classify([text], shipped)[0].ranking]
        for text in ("Hello!", "the mitochondria is the powerhouse of the cell")
    )
    assert 0.95 < sum(near) < 1
    assert sum(far) < 0.5
    assert near == sorted(near, reverse=True)
    assert len(near) == len(shipped.intents)


def test_bare_labels_suffice(minilm_classifier: EmbeddingClassifier) -> None:
    catalog = Catalog.of(["book_flight", "play_music", "bank, account"])
    verdict = minilm_classifier.classify(["I need a plane ticket to Rome"], catalog)[0]
    assert verdict.ranking[0].label == "book_flight"
    assert verdict.known


def test_a_single_label_may_be_wrong(minilm_classifier: EmbeddingClassifier) -> None:
    catalog = Catalog.of(["play_music"])
    assert minilm_classifier.classify(["Please play some music"], catalog)[0].known
    assert not minilm_classifier.classify(["My cat is ill"], catalog)[0].known


def test_examples_help(minilm_classifier: EmbeddingClassifier) -> None:
    text = "there is water coming through my ceiling"
    bare = Catalog.of(["maintenance", "rent"])
    taught = Catalog(
        intents=(
            CatalogIntent(label="maintenance", examples=("The roof leaks", "My tap is dripping")),
            CatalogIntent(label="rent"),
        )
    )
    before, after = (
        minilm_classifier.classify([text], catalog)[0].ranking[0].score for catalog in (bare, taught)
    )
    assert after > before
