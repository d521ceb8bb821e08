"""Sentences about people, as people write them.

A caption mentions some attributes of a `Person` only, and every one that it mentions is true. Words are drawn
from wide lists of synonyms, so that the text encoder learns what they have in common instead of the words;
`TEST_WORDS` are kept out of all of them, for `words_benchmark`. Words for people agree with
specularip.body.phenotype, which sets the body at run time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from people import GARMENTS, METALS, USUAL_CLOTH, Person, Piece, draw_person, is_plain, shade

# Words for clothes --------------------------------------------------------------------------------------

COLOR_WORDS: dict[str, dict[str, str]] = {
    # By shade (people.SHADES). Each comma-separated list holds frequent words more than once.
    "red": {
        "": "red, red, red, red, bright red, scarlet, cherry, cherry-red, poppy red, tomato red, lipstick red, "
        "ruby red, vivid red, fire-engine red",
        "dark": "dark red, dark red, deep red, blood-red, carmine, red",
    },
    "blue": {
        "": "blue, blue, blue, blue, bright blue, cobalt, cobalt blue, royal blue, electric blue, vivid blue",
        "light": "light blue, light blue, sky blue, baby blue, pale blue, azure, cornflower blue, blue",
        "dark": "blue, dark blue, deep blue, royal blue, ultramarine, rich blue",
    },
    "green": {
        "": "green, green, green, green, emerald, emerald green, kelly green, grass green, bright green, leaf green",
        "light": "light green, light green, mint, mint green, pale green, pastel green, pistachio, green",
        "dark": "dark green, dark green, forest green, bottle green, hunter green, deep green, pine green, green",
    },
    "yellow": {
        "": "yellow, yellow, yellow, yellow, bright yellow, lemon, lemon yellow, sunflower yellow, sunny yellow, "
        "vivid yellow, banana yellow",
        "light": "pale yellow, light yellow, pastel yellow, butter yellow, cream yellow, yellow",
    },
    "black": {
        "": "black, black, black, black, black, jet-black, jet black, coal black, pitch-black, deep black"
    },
    "white": {
        "": "white, white, white, white, white, ivory, off-white, snow white, pure white, bright white, milk-white, "
        "pearl white"
    },
    "grey": {
        "": "grey, gray, grey, gray, ash grey, stone grey, mid-grey, medium gray, mouse grey",
        "light": "light grey, light gray, pale grey, pale gray, grey, gray",
        "dark": "dark grey, dark gray, slate, slate grey, slate gray, anthracite, gunmetal grey, grey, gray",
    },
    "brown": {
        "": "brown, brown, brown, brown, chocolate, coffee brown, cocoa brown, nut-brown, cinnamon brown",
        "light": "light brown, light brown, tan, caramel, camel brown, fawn, toffee, brown",
        "dark": "dark brown, dark brown, chocolate brown, espresso, deep brown, brown",
    },
    "orange": {
        "": "orange, orange, orange, orange, bright orange, tangerine, mandarin, vivid orange, neon orange",
        "dark": "burnt orange, rust, rust orange, dark orange, terracotta, orange",
    },
    "purple": {
        "": "purple, purple, purple, purple, violet, violet, bright purple, royal purple",
        "light": "light purple, lilac, lavender, mauve, pale purple, pale violet, purple",
        "dark": "dark purple, deep purple, plum, plum purple, grape, purple",
    },
    "pink": {
        "": "pink, pink, pink, pink, rose, rose pink, carnation pink, candy pink, bright pink",
        "light": "light pink, light pink, pale pink, pastel pink, baby pink, blush pink, pink",
        "dark": "hot pink, hot pink, fuchsia, magenta, deep pink, raspberry, shocking pink, pink",
    },
    "navy": {
        "": "navy, navy, navy blue, navy blue, navy-blue, dark blue, very dark blue, deep navy, marine blue"
    },
    "beige": {
        "": "beige, beige, beige, cream, cream-coloured, sand, sand-coloured, camel, ecru, biscuit, nude"
    },
    "turquoise": {
        "": "turquoise, turquoise, turquoise, aqua blue, cyan, teal",
        "light": "light turquoise, aqua, aquamarine, pale turquoise, turquoise",
        "dark": "teal, teal, petrol blue, dark turquoise, dark teal, dark cyan",
    },
    "burgundy": {
        "": "burgundy, burgundy, maroon, maroon, wine red, wine-coloured, bordeaux, oxblood, claret, dark red"
    },
    "olive": {"": "olive, olive, olive green, khaki, khaki green, army green, moss green, military green"},
    "gold": {"": "gold, gold, golden, golden, gold-coloured, bright gold"},
    "silver": {"": "silver, silver, silver, silvery, silver-coloured, shiny silver"},
}
DENIM_WORDS = {
    "": "blue, blue, denim blue, mid-blue",
    "light": "light blue, faded blue, light-wash, stonewashed, washed-out blue, blue",
    "dark": "dark blue, indigo, dark-wash, deep blue, blue",
}

MATERIAL_NOUNS = {  # what something is made of
    "cotton": "cotton, cotton, cotton, linen, plain cotton, brushed cotton, poplin",
    "wool": "wool, wool, wool, tweed, merino wool, lambswool, mohair",
    "denim": "denim, denim, blue-jean denim, heavy denim",
    "leather": "leather, leather, leather, real leather, faux leather, smooth leather, nappa leather, calfskin",
    "satin": "satin, satin, silk, silk, silky satin, shiny satin, shiny silk, charmeuse",
    "metallic": "metallic fabric, metal, sequins, lamé, chrome, metallic foil, shiny metal, metallic cloth",
}
MATERIAL_ADJECTIVES = {  # what stands before the garment
    "cotton": "cotton, cotton, cotton, linen, matte, matt, soft cotton",
    "wool": "wool, wool, woollen, woolen, woolly, tweed, merino, knitted, knit",
    "denim": "denim, denim, denim, jean",
    "leather": "leather, leather, leather, faux-leather, smooth leather, genuine leather, vegan leather",
    "satin": "satin, satin, silk, silk, silky, satiny, silken, shiny silk, glossy satin",
    "metallic": "metallic, metallic, metallic, metal, sequin, sequinned, sequined, chrome, shimmering metallic, "
    "glittering, sparkly, lamé, shiny metallic",
}

NAMES: dict[str, str] = {
    "t-shirt": "t-shirt, t-shirt, t-shirt, T-shirt, tee, tee, tee shirt, tshirt, short-sleeved top",
    "shirt": "shirt, shirt, shirt, shirt, button-up shirt, button-down shirt, collared shirt, buttoned shirt",
    "blouse": "blouse, blouse, blouse, shirt blouse, ladies' shirt, buttoned blouse",
    "polo shirt": "polo shirt, polo shirt, polo, polo top, golf shirt, tennis shirt",
    "tank top": "tank top, tank top, tank, singlet, sleeveless top, sleeveless shirt, undershirt, vest top",
    "sweater": "sweater, sweater, sweater, jumper, jumper, knit sweater, crew-neck sweater, sweater top",
    "hoodie": "hoodie, hoodie, hoodie, hooded top, hoody, hooded sweatshirt, sweatshirt, hooded jumper",
    "jacket": "jacket, jacket, jacket, jacket, casual jacket, bomber jacket, track jacket, field jacket, blouson",
    "leather jacket": "leather jacket, leather jacket, leather jacket, biker jacket, leather biker jacket, "
    "motorcycle jacket, moto jacket",
    "blazer": "blazer, blazer, blazer, sports coat, sport coat, suit jacket, tailored jacket, dinner jacket",
    "coat": "coat, coat, coat, coat, overcoat, overcoat, topcoat, long coat, winter coat, greatcoat, parka, "
    "trench coat",
    "raincoat": "raincoat, raincoat, rain coat, rain jacket, waterproof coat, anorak, rain slicker, cagoule",
    "vest": "vest, vest, gilet, sleeveless jacket, body warmer, bodywarmer, puffer vest",
    "dress": "dress, dress, dress, dress, dress, knee-length dress, day dress, summer dress, sundress, shift dress, "
    "midi dress, cocktail dress, party dress, tea dress",
    "mini dress": "mini dress, mini dress, minidress, mini-dress, short dress, short little dress, "
    "short party dress",
    "gown": "gown, gown, gown, ball gown, ball gown, long dress, floor-length dress, floor-length gown, maxi dress, "
    "full-length dress, formal gown, prom dress, long formal dress",
    "suit": "suit, suit, suit, suit, business suit, two-piece suit, tailored suit, formal suit, lounge suit, "
    "jacket and trousers",
    "ski suit": "ski suit, ski suit, ski clothes, ski outfit, skiing suit, ski gear, snow suit, skiing clothes",
    "dungarees": "dungarees, dungarees, dungarees, overalls, bib overalls, bib-and-brace overalls, bib trousers",
    "jumpsuit": "jumpsuit, jumpsuit, jumpsuit, jump suit, one-piece suit, coveralls, flight suit",
    "trousers": "trousers, trousers, trousers, pants, pants, pants, chinos, tailored trousers, long pants, "
    "long trousers, dress pants, cargo pants",
    "jeans": "jeans, jeans, jeans, jeans, jeans, denims, denim trousers, denim pants, denim jeans",
    "shorts": "shorts, shorts, shorts, shorts, short pants, short trousers, summer shorts, running shorts",
    "skirt": "skirt, skirt, skirt, skirt, knee-length skirt, midi skirt, knee-high skirt",
    "mini skirt": "mini skirt, mini skirt, mini-skirt, short skirt, mini",
    "long skirt": "long skirt, long skirt, maxi skirt, floor-length skirt, ankle-length skirt, full-length skirt",
    "leggings": "leggings, leggings, leggings, tights, yoga pants, stretch pants, running tights, tight leggings",
    "shoes": "shoes, shoes, shoes, shoes, lace-up shoes, brogues, loafers, low shoes, street shoes",
    "boots": "boots, boots, boots, boots, hiking boots, combat boots, ankle boots, winter boots",
    "sneakers": "sneakers, sneakers, sneakers, trainers, trainers, running shoes, tennis shoes, gym shoes, "
    "sports shoes, canvas shoes, kicks",
    "high heels": "high heels, high heels, heels, high-heeled shoes, pumps, court shoes",
    "sandals": "sandals, sandals, sandals, open sandals, strappy sandals, open-toed shoes",
    "hat": "hat, hat, hat, fedora, fedora, trilby, fedora hat, brimmed hat",
    "cap": "cap, cap, baseball cap, baseball cap, peaked cap, ball cap",
    "beanie": "beanie, beanie, beanie, beanie hat, winter hat, stocking cap",
    "gloves": "gloves, gloves, gloves",
    "long gloves": "long gloves, long gloves, elbow-length gloves, opera gloves, over-the-elbow gloves",
    "belt": "belt, belt, belt, waist belt, buckled belt",
    "necklace": "necklace, necklace, necklace, chain, neck chain, chain necklace, collar necklace",
    "scarf": "scarf, scarf, scarf, neck scarf, muffler, neckerchief",
}
SPECIAL_NAMES: dict[str, tuple[tuple[str, str, str], ...]] = {
    # (words, the colour that they imply, the material that they imply)
    "jacket": (("denim jacket", "", "denim"), ("jean jacket", "", "denim"), ("cardigan", "", "wool")),
    "coat": (("camel coat", "beige", ""), ("duffle coat", "", "wool"), ("lab coat", "white", "cotton")),
    "sweater": (("woolly jumper", "", "wool"), ("knitted top", "", "wool"), ("knit", "", "wool")),
    "mini dress": (("little black dress", "black", ""), ("LBD", "black", "")),
    "dress": (("little black dress", "black", ""),),
    "gown": (("wedding dress", "white", ""), ("wedding gown", "white", ""), ("bridal gown", "white", "")),
    "suit": (("tuxedo", "black", ""), ("tux", "black", ""), ("dinner suit", "black", "")),
    "jeans": (("blue jeans", "blue", "denim"),),
    "shorts": (("jean shorts", "", "denim"), ("denim shorts", "", "denim")),
    "blazer": (("tweed jacket", "", "wool"),),
    "beanie": (("knitted hat", "", "wool"), ("woolly hat", "", "wool"), ("knit cap", "", "wool")),
    "hat": (("felt hat", "", "wool"),),
    "necklace": (
        ("gold chain", "gold", "metallic"),
        ("pearl necklace", "white", ""),
        ("string of pearls", "white", ""),
    ),
    "shoes": (("leather shoes", "", "leather"),),
    "boots": (("leather boots", "", "leather"),),
}
IMPLIED_CLOTH = {"jeans": "denim", "leather jacket": "leather"}
EMPTY_ADJECTIVES = (
    "elegant, beautiful, nice, lovely, stylish, fashionable, trendy, vintage, retro, classic, casual, cosy, cozy, "
    "comfy, modern, simple, plain, neat, designer, favourite, favorite, gorgeous, brand-new, new, smart, fancy, "
    "chic, expensive, everyday, well-made, fitted, Italian-made, handmade, timeless"
).split(", ")

# Words for people ---------------------------------------------------------------------------------------

NOUNS: dict[str, dict[str, str]] = {
    "male": {
        "child": "boy, boy, boy, little boy, young boy, schoolboy, child, kid",
        "teen": "teenage boy, teenager, teenage boy, adolescent boy, teen, male teenager",
        "young": "young man, young man, man, man, guy, young gentleman, lad, young guy, young male model, "
        "male student, son, young actor, person",
        "adult": "man, man, man, man, guy, gentleman, male, male model, father, dad, husband, businessman, actor, "
        "waiter, brother, uncle, king, prince, hero, person",
        "middle-aged": "middle-aged man, middle-aged man, middle-aged gentleman, middle-aged guy, man",
        "old": "old man, old man, elderly man, elderly gentleman, senior man, grandfather, grandpa, old gentleman, "
        "elderly guy, aged man, male pensioner",
    },
    "female": {
        "child": "girl, girl, girl, little girl, young girl, schoolgirl, child, kid",
        "teen": "teenage girl, teenager, teenage girl, adolescent girl, teen, female teenager",
        "young": "young woman, young woman, woman, woman, lady, young lady, young female model, female student, "
        "daughter, young actress, princess, person",
        "adult": "woman, woman, woman, woman, lady, female, female model, mother, mum, mom, wife, businesswoman, "
        "actress, waitress, sister, aunt, queen, princess, heroine, person",
        "middle-aged": "middle-aged woman, middle-aged woman, middle-aged lady, middle-aged mother, woman",
        "old": "old woman, old woman, elderly woman, elderly lady, senior woman, grandmother, grandma, granny, "
        "old lady, aged woman, female pensioner",
    },
    "neutral": {
        "child": "child, child, kid",
        "teen": "teenager, teen, adolescent",
        "young": "young person, young adult, person, student",
        "adult": "person, person, adult, human, figure, individual",
        "middle-aged": "middle-aged person, person",
        "old": "old person, elderly person, senior, pensioner",
    },
}
TRADES = (
    "model, model, fashion model, dancer, athlete, teacher, doctor, nurse, singer, worker, artist, tourist, lawyer, "
    "pianist, librarian, photographer, traveller, traveler, designer, engineer, scientist, reporter, writer, chef"
).split(", ")
BUILDS = {
    "heavy": "heavy, heavy-set, heavyset, overweight, plump, chubby, stout, fat, obese",
    "slim": "slim, slim, slender, thin, skinny, lean",
    "muscular": "muscular, muscular, athletic, strong, well-built",
    "tall": "tall, tall, very tall",
    "short": "short, rather short, short",
}
ANCESTRIES = {
    "african": "African, African, Nigerian, Kenyan, Ethiopian, African-American",
    "asian": "Asian, Asian, Chinese, Japanese, Korean, Vietnamese, Thai",
    "caucasian": "European, Caucasian, Scandinavian",
}
MANNERS = {  # adjectives without a meaning for the picture
    "male": "handsome, smiling, friendly, good-looking, serious, happy, charming",
    "female": "beautiful, pretty, smiling, friendly, elegant, gorgeous, stunning, happy",
    "neutral": "smiling, friendly, happy, serious",
}
SKINS = {
    "pale": "pale skin, very pale skin, fair skin, white skin, light skin, porcelain skin",
    "light": "light skin, fair skin, light skin tone, fair complexion",
    "tanned": "tanned skin, olive skin, tan skin, bronzed skin, sun-tanned skin",
    "brown": "brown skin, brown skin, light brown skin, medium-dark skin",
    "dark": "dark skin, dark skin, dark brown skin, dark complexion",
    "very dark": "very dark skin, dark skin, black skin, deep dark skin",
}
HAIR_WORDS = {
    "black": "black, black, jet-black, dark, raven",
    "brown": "brown, brown, brown, brunette, dark brown, mousy brown",
    "blonde": "blonde, blonde, blond, blond, golden, fair, honey-blonde, flaxen",
    "red": "red, red, ginger, ginger, auburn, copper, reddish",
    "grey": "grey, gray, grey, gray, silver, silver-grey, salt-and-pepper",
    "white": "white, white, snow-white, silver-white",
    "pink": "pink, pink, dyed pink, rose-pink",
    "blue": "blue, blue, dyed blue, bright blue",
}
HAIR_FORMS = {  # {} is the colour
    "bald": "a bald head, no hair, a shaved head, a shaven head, a hairless head",
    "short": "short {} hair, short {} hair, short {} hair, short-cropped {} hair, cropped {} hair, {} hair cut short, "
    "a short {} haircut, short-cut {} hair",
    "bob": "a {} bob, a {} bob, bobbed {} hair, chin-length {} hair, a {} bob cut, {} hair in a bob",
    "long": "long {} hair, long {} hair, long {} hair, long flowing {} hair, long loose {} hair, long {} locks",
    "ponytail": "a {} ponytail, {} hair in a ponytail, a {} pony tail, {} hair tied in a ponytail, {} ponytail hair",
    "braid": "a {} braid, {} hair in a braid, braided {} hair, a long {} braid, a {} plait, plaited {} hair",
    "afro": "a {} afro, an afro of {} hair, curly {} hair, frizzy {} hair, {} curls, curly {} hair, a {} afro hairstyle",
    "bun": "{} hair in a bun, a {} bun, {} hair tied up, a {} updo, {} hair tied in a bun, {} hair up in a bun",
}
EYE_WORDS = {
    "brownlight": "brown", "blue": "blue", "lightblue": "light blue", "ice": "pale blue", "bluegreen": "blue-green",
    "green": "green", "grey": "grey",
}  # fmt: skip
PRONOUNS = {"male": ("he", "his"), "female": ("she", "her"), "neutral": ("they", "their")}

# Words around a description -----------------------------------------------------------------------------

LEADS = (
    "a photo of, a picture of, a portrait of, a full body photo of, full-body shot of, photo of, portrait of, image of, "
    "an image of, a 3d model of, 3d avatar of, an avatar of, a full-length portrait of, a rendering of, a drawing of, "
    "I want, please make, make me, create, generate, show me, a studio photo of, a realistic picture of, character:"
).split(", ")
TAILS = (
    "studio light, high quality, realistic, 4k, 8k, full body, full length, highly detailed, 3d, photo, photorealistic, "
    "standing, facing the camera, soft light, sharp focus, plain background, grey background, masterpiece, "
    "best quality, octane render, trending online, unreal engine, cinematic, in natural light, A-pose, standing still, "
    "smiling, with a smile, looking at the camera, high resolution, professional photo, catalogue photo, game character"
).split(", ")
PLACES = (
    "Paris, Kyoto, Lisbon, New York, Reykjavik, the park, the street, a garden, the office, a café, the beach, summer, "
    "winter, the mountains, a museum, the evenings, front of a window, a station, the kitchen, Buenos Aires, the rain"
).split(", ")
GIVEN_NAMES = {
    "male": "Tomas, Liam, Kofi, Hiroshi, Pedro, Ahmed, Piotr, David, Samuel, Raj, Erik, John, Paulo, Mehmet",
    "female": "Anika, Olga, Zehra, Maria, Fatima, Yuki, Chloe, Ingrid, Amara, Sofia, Priya, Emma, Eileen, Leila",
    "neutral": "Alex, Sam, Kim, Robin, Charlie",
}
SYLLABLES = "ba ko ri zu le mo ta vi ne dra sho lu ky pel var en".split()

# Reserved for the benchmark -----------------------------------------------------------------------------

TEST_WORDS = (
    # colours
    "crimson", "vermilion", "sapphire", "cerulean", "jade", "viridian", "canary", "daffodil", "ebony", "onyx",
    "alabaster", "chalk", "charcoal", "pewter", "chestnut", "walnut", "pumpkin", "apricot", "carrot", "amethyst",
    "aubergine", "flamingo", "bubblegum", "midnight", "inky",
    # clothes
    "frock", "slacks", "jersey", "pullover", "camisole", "windbreaker", "waistcoat", "mackintosh", "snowsuit",
    "pantsuit", "boilersuit", "miniskirt", "evening gown", "cashmere", "taffeta", "velvet", "trouser suit",
    # turns of phrase
    "clad in", "attired in", "sporting", "has on", "outfitted in", "decked out in", "and the", "chose", "put on",
    "garbed in", "the colour of",
)  # fmt: skip

_WORDS_BENCHMARK = """
red: a crimson ball gown = gown
red: a woman in a scarlet frock = dress
red: a young man clad in a vermilion hoodie = hoodie
red: an old lady who put on a red jersey = sweater
red: a crimson raincoat and the man who wears this = raincoat
blue: a woman in a sapphire silk blouse = blouse
blue: cobalt evening gown, blonde woman = gown
blue: a man attired in a blue windbreaker and black jeans = jacket
blue: a cerulean t-shirt on a muscular man = t-shirt
blue: a royal blue frock of cotton for a teenage girl = dress
green: a jade satin gown, woman with a bun = gown
green: a gentleman has on a green pullover = sweater
green: an emerald velvet evening gown = gown
green: woman outfitted in a viridian coat = coat
green: a girl decked out in a green snowsuit = ski suit
yellow: a canary mini dress = mini dress
yellow: a man sporting a lemon mackintosh = raincoat
yellow: a daffodil sundress on a young woman = dress
yellow: a boy clad in a yellow pullover and blue jeans = sweater
yellow: an elderly woman in a canary cardigan = jacket
black: an ebony tuxedo = suit
black: a woman who chose a black pantsuit = suit
black: man in an onyx leather jacket = leather jacket
black: black camisole and the young woman who wears this = tank top
black: a woman in a black boilersuit = jumpsuit
white: an alabaster evening gown = gown
white: a chalk white polo shirt on an old man = polo shirt
white: a woman sporting a white frock = dress
white: a white cashmere pullover, slim woman = sweater
white: an elderly man clad in a white shirt and grey slacks = shirt
grey: a businessman in a charcoal suit = suit
grey: a pewter hoodie on a teenage boy = hoodie
grey: a woman has on a gray cashmere jersey = sweater
grey: a man attired in a grey boilersuit = jumpsuit
grey: a pewter overcoat and the old man who wears this = coat
brown: a chestnut leather jacket = leather jacket
brown: a man in a walnut wool blazer = blazer
brown: a woman outfitted in a brown taffeta frock = dress
brown: a chocolate brown mackintosh on a heavy man = raincoat
brown: an old man decked out in a chestnut overcoat = coat
orange: a pumpkin sweater = sweater
orange: a skier clad in an orange snowsuit = ski suit
orange: a young man in a carrot orange windbreaker = jacket
orange: woman with an afro sporting an apricot tank top = tank top
orange: tangerine frock, short black hair, woman = dress
purple: an amethyst ball gown = gown
purple: an aubergine velvet blazer on a man = blazer
purple: a woman has on a purple camisole and white shorts = tank top
purple: an elderly lady attired in a violet frock = dress
purple: a plum pullover and the child who wears this = sweater
pink: a flamingo pink mini dress = mini dress
pink: a bubblegum t-shirt on a schoolgirl = t-shirt
pink: a woman garbed in a pink evening gown = gown
pink: a lady in a rose pantsuit = suit
pink: a young woman sporting a hot pink jersey = sweater
navy: navy dungarees, the colour of the sea = dungarees
navy: a midnight blue evening gown = gown
navy: a man clad in a navy blue suit = suit
navy: a woman in an inky blue wool coat = coat
navy: a boy has on a navy windbreaker = jacket
"""


def words_benchmark() -> list[tuple[str, str, str]]:
    """60 (sentence, garment, colour), five for each basic colour; each has a word or order of `TEST_WORDS`."""
    rows = re.findall(r"^(\w+): (.+) = (.+)$", _WORDS_BENCHMARK, re.MULTILINE)
    return [(sentence, garment, color) for color, sentence, garment in rows]


# Describing ---------------------------------------------------------------------------------------------

_SPLIT: dict[str, list[str]] = {}


def pick(rng: random.Random, words: str) -> str:
    """One of a comma-separated list."""
    choices = _SPLIT.get(words)
    if choices is None:
        choices = _SPLIT[words] = words.split(", ")
    return choices[int(rng.random() * len(choices))]


def is_plural(phrase: str) -> bool:
    return phrase.endswith("s") and not phrase.endswith(("ss", "pearls"))


def with_article(phrase: str) -> str:
    """ "a red dress", "an old man"; plurals stay bare, or become "a pair of"."""
    vowel = phrase[0].lower() in "aeiou" and not phrase.lower().startswith(("one-", "european", "uni"))
    return ("an " if vowel else "a ") + phrase


def join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def color_word(rng: random.Random, piece: Piece) -> str:
    table = DENIM_WORDS if (piece.color, piece.material) == ("blue", "denim") else COLOR_WORDS[piece.color]
    word = pick(rng, table[shade(piece)])
    return word.replace("coloured", "colored") if rng.random() < 0.5 else word


def garment_words(rng: random.Random, piece: Piece) -> tuple[str, bool, bool]:
    """A name of the garment, and whether it already tells the colour and the cloth."""
    special = [
        (name, bool(color), bool(cloth))
        for name, color, cloth in SPECIAL_NAMES.get(piece.garment, ())
        if color in ("", piece.color) and cloth in ("", piece.material)
    ]
    if special and rng.random() < 0.3:
        return rng.choice(special)
    name = pick(rng, NAMES[piece.garment])
    implied = IMPLIED_CLOTH.get(piece.garment, "")
    return name, False, implied == piece.material or piece.garment == "necklace"


def garment_phrase(rng: random.Random, piece: Piece, article: bool = True) -> str:
    """ "a red satin dress", in one of many orders. What is usual for the garment may be left out."""
    name, tells_color, tells_cloth = garment_words(rng, piece)
    usual_color = piece.color in GARMENTS[piece.garment].colors
    usual_cloth = piece.material == USUAL_CLOTH[piece.garment]
    hue = "" if tells_color or rng.random() < (0.25 if usual_color else 0.02) else color_word(rng, piece)
    cloth = not tells_cloth and rng.random() < (0.3 if usual_cloth else 0.9)
    if cloth and piece.color in METALS and piece.material == "metallic":
        cloth = rng.random() < 0.3  # "gold dress" says it
    adjective = rng.choice(EMPTY_ADJECTIVES) if rng.random() < 0.1 else ""
    order = rng.random()
    if cloth and order < 0.16:
        noun = pick(rng, MATERIAL_NOUNS[piece.material])
        front, back = [adjective, hue, name], f"{rng.choice(('made of', 'made from', 'of', 'in'))} {noun}"
    elif cloth and hue and order < 0.22:
        noun = pick(rng, MATERIAL_NOUNS[piece.material])
        front, back = [adjective, name], f"{rng.choice(('made of', 'of', 'in'))} {hue} {noun}"
    elif cloth:
        word = pick(rng, MATERIAL_ADJECTIVES[piece.material])
        front, back = [adjective, hue, word, name] if order < 0.88 else [adjective, word, hue, name], ""
    elif hue and order < 0.06:
        front, back = [adjective, name], f"in {hue}"
    else:
        front, back = [adjective, hue, name], ""
    core = " ".join(word for word in front if word)
    if article and not is_plural(name):
        core = with_article(core)
    elif article and piece.slot in ("bottom", "feet") and rng.random() < 0.08:
        core = f"a pair of {core}"
    return f"{core} {back}" if back else core


def mentioned(rng: random.Random, person: Person) -> list[Piece]:
    """The pieces that a caption names, the most visible first. What has a usual look is mostly passed over."""
    pieces = person.pieces
    over = any(piece.slot == "outer" or piece.garment in ("suit", "dungarees") for piece in pieces)
    ranks = ("outer", "whole", "top", "bottom", "feet", "extra")
    chosen = []
    for piece in pieces:
        if piece.slot == "top" and over:
            white_shirt = (piece.garment, piece.color) == ("shirt", "white")
            chance = 0.25 if white_shirt else 0.6
        elif piece.slot in ("bottom", "feet"):
            usual = 0.3 if piece.slot == "bottom" else 0.15
            chance = usual if is_plain(piece) else 0.92 if piece.slot == "bottom" else 0.75
        else:
            chance = 0.8 if piece.slot == "extra" else 1.0
        if rng.random() < chance:
            chosen.append(piece)
    chosen = chosen or pieces[:1]
    chosen.sort(key=lambda piece: ranks.index(piece.slot))
    if rng.random() < 0.12:
        chosen = chosen[:1]
    if rng.random() < 0.15:
        rng.shuffle(chosen)
    return chosen


def clothes_phrases(rng: random.Random, person: Person, article: bool = True) -> list[str]:
    """The garments as phrases; what is worn under a coat or suit may be joined to it by "over"."""
    pieces = mentioned(rng, person)
    phrases = [garment_phrase(rng, piece, article) for piece in pieces]
    if len(pieces) > 1 and pieces[1].slot == "top" and rng.random() < 0.4:
        suit = pieces[0].garment == "suit"
        link = rng.choice(("with", "and")) if suit else rng.choice(("over", "over", "on top of"))
        phrases[:2] = [f"{phrases[0]} {link} {phrases[1]}"]
    return phrases


def hair_phrase(rng: random.Random, person: Person, article: bool = True) -> str:
    hue = pick(rng, HAIR_WORDS[person.hair_color])
    if person.hair_style == "bald" or rng.random() < 0.7:
        form = pick(rng, HAIR_FORMS[person.hair_style])
        hue = hue if "{}" in form and rng.random() < 0.8 else ""
        plain = hue or "{} hair" not in form or not form.startswith("{} hair")
        phrase = " ".join((form if plain else form).format(hue).split())
    else:
        phrase = f"{hue} hair"
    if phrase.startswith(("a ", "an ")):
        phrase = phrase.split(" ", 1)[1]
        return with_article(phrase) if article else phrase
    return phrase


def beard_phrase(rng: random.Random, person: Person, article: bool = True) -> str:
    size = (
        "stubble, short beard, trimmed beard"
        if person.beard < 0.5
        else "beard, full beard, bushy beard, thick beard"
    )
    phrase = pick(rng, size) if rng.random() < 0.6 else "beard"
    if phrase != "stubble" and rng.random() < 0.3:
        phrase = phrase.replace("beard", f"{pick(rng, HAIR_WORDS[person.hair_color])} beard")
    return with_article(phrase) if article and phrase != "stubble" else phrase


def trait_phrases(rng: random.Random, person: Person, article: bool = True) -> list[str]:
    """Hair, beard, skin, eyes: some of them."""
    traits = []
    if rng.random() < (0.8 if person.hair_style == "bald" or person.hair_color in ("pink", "blue") else 0.5):
        traits.append(hair_phrase(rng, person, article))
    if person.beard and rng.random() < 0.75:
        traits.append(beard_phrase(rng, person, article))
    if rng.random() < 0.12:
        traits.append(pick(rng, SKINS[person.words["skin"]]))
    if rng.random() < 0.06:
        traits.append(f"{EYE_WORDS[person.eyes]} eyes")
    return traits


def person_noun(rng: random.Random, person: Person) -> str:
    """ "tall elderly gentleman", without an article."""
    sex, age = person.words["sex"], person.words["age"]
    noun = pick(rng, NOUNS[sex][age])
    if age in ("young", "adult") and rng.random() < 0.1:
        trade = rng.choice(TRADES)
        noun = f"{sex} {trade}" if sex != "neutral" and rng.random() < 0.5 else trade
    build, ancestry = person.words.get("build"), person.words.get("ancestry")
    skin = person.words["skin"]
    chance = rng.random()
    if ancestry and chance < 0.5:
        noun = f"{pick(rng, ANCESTRIES[ancestry])} {noun}"
    elif skin in ("dark", "very dark", "pale") and chance > 0.94:
        noun = f"{'white' if skin == 'pale' else rng.choice(('Black', 'black', 'dark-skinned'))} {noun}"
    if build and rng.random() < 0.55:
        return f"{pick(rng, BUILDS[build])} {noun}"
    if rng.random() < 0.12:
        hair = person.hair_color
        if person.hair_style == "bald":
            return f"bald {noun}"
        if person.beard and rng.random() < 0.5:
            return f"bearded {noun}"
        return (
            f"{'blonde' if hair == 'blonde' else pick(rng, HAIR_WORDS[hair]).split()[-1] + '-haired'} {noun}"
        )
    if rng.random() < 0.08:
        return f"{pick(rng, MANNERS[sex])} {noun}"
    return noun


def invented(rng: random.Random) -> str:
    """A word that means nothing."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def _sentence(rng: random.Random, person: Person) -> str:
    """ "a woman with red hair in a green coat"."""
    who = with_article(person_noun(rng, person))
    if rng.random() < 0.03:
        name = pick(rng, GIVEN_NAMES[person.words["sex"]]) if rng.random() < 0.7 else invented(rng)
        who = f"{name}, {who}," if rng.random() < 0.5 else f"{who} named {name}"
    traits, clothes = trait_phrases(rng, person), join(clothes_phrases(rng, person))
    verb = rng.choice(("in", "in", "in", "wearing", "wearing", "dressed in", "who wears", "who is wearing"))
    if traits and rng.random() < 0.6:
        return f"{who} with {join(traits)} {verb} {clothes}".replace(",  ", ", ")
    if traits:
        return f"{who} {verb} {clothes}, with {join(traits)}"
    return f"{who} {verb} {clothes}"


def _statement(rng: random.Random, person: Person) -> str:
    """ "She is a young woman. She wears a green coat."."""
    they, their = PRONOUNS[person.words["sex"]]
    is_, has, wears = ("are", "have", "wear") if they == "they" else ("is", "has", "wears")
    who = with_article(person_noun(rng, person))
    traits, clothes = trait_phrases(rng, person), join(clothes_phrases(rng, person))
    wearing = rng.choice((wears, wears, f"{is_} wearing", f"{is_} dressed in"))
    form = rng.randrange(5)
    grown = person.words["age"] in ("young", "adult")
    if form == 0 and grown:
        return f"{they} {wearing} {clothes}" + (f" and {has} {join(traits)}" if traits else "")
    if form == 1:
        hair = f" {they} {has} {join(traits)}." if traits else ""
        return f"{who}.{hair} {they} {wearing} {clothes}"
    if form == 2:
        hair = f" with {join(traits)}" if traits else ""
        return f"{they} {is_} {who}{hair}, {wearing} {clothes}".replace(f", {wearing}", f" and {wearing}")
    if form == 3:
        return f"{who}{' with ' + join(traits) if traits else ''}; {their} clothes: {clothes}"
    return f"{who} wears {clothes}" + (f" and has {join(traits)}" if traits else "")


def _tags(rng: random.Random, person: Person) -> str:
    """ "woman, red hair, green coat"."""
    tags = trait_phrases(rng, person, article=False) + clothes_phrases(rng, person, article=False)
    if rng.random() < 0.4:
        rng.shuffle(tags)
    return rng.choice((", ", ", ", ", ", "; ", " / ")).join([person_noun(rng, person), *tags])


def _whose(rng: random.Random, person: Person) -> str:
    """ "a young lady whose coat is green"; "a man; his trousers are grey"."""
    they, their = PRONOUNS[person.words["sex"]]
    who, traits = with_article(person_noun(rng, person)), trait_phrases(rng, person)
    first, *rest = mentioned(rng, person)
    clauses = []
    for piece in [first, *rest[:1]]:
        name, tells_color, tells_cloth = garment_words(rng, piece)
        what = color_word(rng, piece)
        verb = "are" if is_plural(name) else "is"
        made = pick(rng, MATERIAL_NOUNS[piece.material])
        if tells_color and tells_cloth:
            clauses.append(f"{name} {verb} {rng.choice(EMPTY_ADJECTIVES)}")
        elif tells_color or (not tells_cloth and piece.material != USUAL_CLOTH[piece.garment]):
            clauses.append(f"{name} {verb} " + ("" if tells_color else f"{what} and ") + f"made of {made}")
        else:
            clauses.append(f"{name} {verb} {what}")
    who = f"{who} with {join(traits)}" if traits else who
    more = [garment_phrase(rng, piece) for piece in rest[1:]]
    if rng.random() < 0.5:
        text = f"{who} whose {join(clauses)}" if not traits else f"{who}, whose {join(clauses)}"
    else:
        text = f"{who}{rng.choice((', ', '; ', '. '))}{their} {f' and {their} '.join(clauses)}"
    return f"{text}, {rng.choice(('with', 'wearing', 'plus'))} {join(more)}" if more else text


def _clothes_first(rng: random.Random, person: Person) -> str:
    """ "a green coat worn by a woman with red hair"."""
    who, traits = with_article(person_noun(rng, person)), trait_phrases(rng, person)
    who = f"{who} with {join(traits)}" if traits else who
    link = rng.choice(("worn by", "worn by", "on"))
    return f"{join(clothes_phrases(rng, person))} {link} {who}"


def _clothes_only(rng: random.Random, person: Person) -> str:
    """ "green coat, brown boots": said of people whose age goes without saying."""
    if person.words["age"] not in ("young", "adult"):
        return _tags(rng, person)
    article = rng.random() < 0.5
    return join(clothes_phrases(rng, person, article))


_FORMS = (_sentence, _statement, _tags, _whose, _clothes_first, _clothes_only)
_SHARES = (0.46, 0.16, 0.17, 0.09, 0.08, 0.04)


def _misspelt(rng: random.Random, text: str) -> str:
    """One typing error: two neighbouring letters swapped, or one lost, inside a word."""
    places = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 3].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + (text[i + 1] + text[i] if rng.random() < 0.6 else text[i]) + text[i + 2 :]


def describe(person: Person, rng: random.Random) -> str:
    """A caption of `person`. Two calls give two captions."""
    form = rng.choices(_FORMS, _SHARES)[0]
    text = form(rng, person)
    if "feet" not in [piece.slot for piece in person.pieces] and rng.random() < 0.8:
        text += rng.choice((", barefoot", ", no shoes", ", bare feet"))
    if form not in (_statement, _clothes_only) and rng.random() < 0.2:
        text = f"{rng.choice(LEADS)} {text}"
    if rng.random() < 0.04:
        text += f" in {rng.choice(PLACES)}" if form is not _tags else f", {rng.choice(PLACES)}"
    if rng.random() < 0.02:
        text += rng.choice((f", {invented(rng)}", f" by {invented(rng)}", f", {invented(rng)} style"))
    while rng.random() < 0.14:
        text += f", {rng.choice(TAILS)}"
    if rng.random() < 0.05:  # as in a search box
        text = re.sub(r"\b(a|an) ", "", text, flags=re.IGNORECASE)
    if rng.random() < 0.015:
        text = _misspelt(rng, text)
    style = rng.random()
    if style < 0.45:
        text = re.sub(r"(^|[.] )([a-z])", lambda m: m[1] + m[2].upper(), text)
    elif style < 0.7:
        text = text.lower()
    elif style < 0.71:
        text = text.upper()
    return text + ("." if rng.random() < 0.25 else "")


def vocabulary() -> list[str]:
    """Every frequent word of the captions, sorted: those that occur at least twice in 20,000."""
    rng = random.Random(0)
    once: set[str] = set()
    often: set[str] = set()
    for _ in range(20_000):
        for word in re.findall(r"[a-zé0-9]+", describe(draw_person(rng), rng).lower()):
            (often if word in once else once).add(word)
    return sorted(often)
