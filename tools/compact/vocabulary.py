"""The words of the captions: names of colours, cloths, garments and people, and what stands around them.

A list is one string: "red*4, scarlet" is four times "red" and once "scarlet". `captions.pick` draws from it.
Words for people agree with specularip.body.phenotype, which sets the body at run time. `TEST_WORDS` are kept
out of all lists, for `captions.words_benchmark`.
"""

from __future__ import annotations

# Clothes -----------------------------------------------------------------------------------------------

COLOR_WORDS: dict[str, dict[str, str]] = {  # by colour and shade (people.SHADES)
    "red": {
        "": (
            "red*4, bright red, scarlet, cherry, cherry-red, poppy red, tomato red, lipstick red, ruby red, "
            "vivid red, fire-engine red"
        ),
        "dark": "dark red*2, deep red, blood-red, carmine, red",
    },
    "blue": {
        "": "blue*4, bright blue, cobalt, cobalt blue, royal blue, electric blue, vivid blue",
        "light": "light blue*2, sky blue, pale blue, azure, cornflower blue, blue",
        "dark": "blue, dark blue, deep blue, royal blue, ultramarine, rich blue",
    },
    "green": {
        "": "green*4, emerald, emerald green, kelly green, grass green, bright green, leaf green",
        "light": "light green*2, mint, mint green, pale green, pastel green, pistachio, green",
        "dark": "dark green*2, forest green, bottle green, hunter green, deep green, pine green, green",
    },
    "yellow": {
        "": (
            "yellow*4, bright yellow, lemon, lemon yellow, sunflower yellow, sunny yellow, vivid yellow, "
            "banana yellow"
        ),
        "light": "pale yellow, light yellow, pastel yellow, butter yellow, cream yellow, yellow",
    },
    "black": {
        "": "black*5, jet-black, jet black, coal black, pitch-black, deep black",
    },
    "white": {
        "": "white*5, ivory, off-white, snow white, pure white, bright white, milk-white, pearl white",
    },
    "grey": {
        "": "grey*2, gray*2, ash grey, stone grey, mid-grey, medium gray, mouse grey",
        "light": "light grey, light gray, pale grey, pale gray, grey, gray",
        "dark": (
            "dark grey, dark gray, slate, slate grey, slate gray, anthracite, gunmetal grey, grey, gray"
        ),
    },
    "brown": {
        "": "brown*4, chocolate, coffee brown, cocoa brown, nut-brown, cinnamon brown",
        "light": "light brown*2, tan, caramel, camel brown, fawn, toffee, brown",
        "dark": "dark brown*2, chocolate brown, espresso, deep brown, brown",
    },
    "orange": {
        "": "orange*4, bright orange, tangerine, mandarin, vivid orange, neon orange",
        "dark": "burnt orange, rust, rust orange, dark orange, terracotta, orange",
    },
    "purple": {
        "": "purple*4, violet*2, bright purple, royal purple",
        "light": "light purple, lilac, lavender, mauve, pale purple, pale violet, purple",
        "dark": "dark purple, deep purple, plum, plum purple, grape, purple",
    },
    "pink": {
        "": "pink*4, rose, rose pink, carnation pink, candy pink, bright pink",
        "light": "light pink*2, pale pink, pastel pink, blush pink, pink",
        "dark": "hot pink*2, fuchsia, magenta, deep pink, raspberry, shocking pink, pink",
    },
    "navy": {
        "": "navy*2, navy blue*2, navy-blue, dark blue, very dark blue, deep navy, marine blue",
    },
    "beige": {
        "": "beige*3, cream, cream-coloured, sand, sand-coloured, camel, ecru, biscuit, nude",
    },
    "turquoise": {
        "": "turquoise*3, aqua blue, cyan, teal",
        "light": "light turquoise, aqua, aquamarine, pale turquoise, turquoise",
        "dark": "teal*2, petrol blue, dark turquoise, dark teal, dark cyan",
    },
    "burgundy": {
        "": "burgundy*2, maroon*2, wine red, wine-coloured, bordeaux, oxblood, claret, dark red",
    },
    "olive": {
        "": "olive*2, olive green, khaki, khaki green, army green, moss green, military green",
    },
    "gold": {
        "": "gold*2, golden*2, gold-coloured, bright gold",
    },
    "silver": {
        "": "silver*3, silvery, silver-coloured, shiny silver",
    },
}
DENIM_WORDS: dict[str, str] = {  # blue jeans, by shade
    "": "blue*2, denim blue, mid-blue",
    "light": "light blue, faded blue, light-wash, stonewashed, washed-out blue, blue",
    "dark": "dark blue, indigo, dark-wash, deep blue, blue",
}

MATERIAL_NOUNS: dict[str, str] = {  # what something is made of
    "cotton": "cotton*3, linen, plain cotton, brushed cotton, poplin",
    "wool": "wool*3, tweed, merino wool, lambswool, mohair",
    "denim": "denim*2, blue-jean denim, heavy denim",
    "leather": "leather*3, real leather, faux leather, smooth leather, nappa leather, calfskin",
    "satin": "satin*2, silk*2, silky satin, shiny satin, shiny silk, charmeuse",
    "metallic": ("metallic fabric, metal, sequins, lamé, chrome, metallic foil, shiny metal, metallic cloth"),
}
MATERIAL_ADJECTIVES: dict[str, str] = {  # what stands before the garment
    "cotton": "cotton*3, linen, matte, matt, soft cotton",
    "wool": "wool*2, woollen, woolen, woolly, tweed, merino, knitted, knit",
    "denim": "denim*3, jean",
    "leather": "leather*3, faux-leather, smooth leather, genuine leather, vegan leather",
    "satin": "satin*2, silk*2, silky, satiny, silken, shiny silk, glossy satin",
    "metallic": (
        "metallic*3, metal, sequin, sequinned, sequined, chrome, shimmering metallic, glittering, sparkly, "
        "lamé, shiny metallic"
    ),
}

NAMES: dict[str, str] = {
    "t-shirt": "t-shirt*3, T-shirt, tee*2, tee shirt, tshirt, short-sleeved top",
    "shirt": "shirt*4, button-up shirt, button-down shirt, collared shirt, buttoned shirt",
    "blouse": "blouse*4, dressy blouse, buttoned blouse",
    "polo shirt": "polo shirt*2, polo, polo top, golf shirt, tennis shirt",
    "tank top": "tank top*2, tank, singlet, sleeveless top, sleeveless shirt, undershirt, vest top",
    "sweater": "sweater*3, jumper*2, knit sweater, crew-neck sweater, sweater top",
    "hoodie": "hoodie*3, hooded top, hoody, hooded sweatshirt, sweatshirt, hooded jumper",
    "jacket": "jacket*4, casual jacket, bomber jacket, track jacket, field jacket, blouson",
    "leather jacket": (
        "leather jacket*3, biker jacket, leather biker jacket, motorcycle jacket, moto jacket"
    ),
    "blazer": "blazer*3, sports coat, sport coat, suit jacket, tailored jacket, dinner jacket",
    "coat": "coat*4, overcoat*2, topcoat, long coat, winter coat, greatcoat, parka, trench coat",
    "raincoat": "raincoat*2, rain coat, rain jacket, waterproof coat, anorak, rain slicker, cagoule",
    "vest": "vest*2, gilet, sleeveless jacket, body warmer, bodywarmer, puffer vest",
    "dress": (
        "dress*5, knee-length dress, day dress, summer dress, sundress, shift dress, midi dress, cocktail "
        "dress, party dress, tea dress"
    ),
    "mini dress": ("mini dress*2, minidress, mini-dress, short dress, short little dress, short party dress"),
    "gown": (
        "gown*3, ball gown*2, ballgown, long dress*2, floor-length dress, floor-length gown, maxi dress, "
        "full-length dress, formal gown, prom dress, long formal dress, evening dress, robe"
    ),
    "suit": "suit*4, business suit, two-piece suit, tailored suit, formal suit, lounge suit",
    "ski suit": "ski suit*2, ski clothes, ski outfit, skiing suit, skiing outfit, snow suit, skiing clothes",
    "dungarees": "dungarees*3, overalls, bib overalls, bib-and-brace overalls, bib trousers",
    "jumpsuit": "jumpsuit*3, jump suit, one-piece suit, coveralls, flight suit",
    "trousers": (
        "trousers*3, pants*3, chinos, tailored trousers, long pants, long trousers, dress pants, cargo pants"
    ),
    "jeans": "jeans*5, denims, denim trousers, denim pants, denim jeans",
    "shorts": "shorts*4, short pants, short trousers, summer shorts, running shorts",
    "skirt": "skirt*4, knee-length skirt, midi skirt, knee-high skirt",
    "mini skirt": "mini skirt*2, mini-skirt, short skirt, mini",
    "long skirt": "long skirt*2, maxi skirt, floor-length skirt, ankle-length skirt, full-length skirt",
    "leggings": "leggings*3, tights, yoga pants, stretch pants, running tights, tight leggings",
    "shoes": "shoes*4, lace-up shoes, brogues, loafers, low shoes, street shoes",
    "boots": "boots*4, hiking boots, combat boots, ankle boots, winter boots",
    "sneakers": (
        "sneakers*3, trainers*2, running shoes, tennis shoes, gym shoes, sports shoes, canvas shoes, kicks"
    ),
    "high heels": "high heels*2, heels, high-heeled shoes, pumps, court shoes",
    "sandals": "sandals*3, open sandals, strappy sandals, open-toed shoes",
    "hat": "hat*3, fedora*2, trilby, fedora hat, brimmed hat",
    "cap": "cap*2, baseball cap*2, peaked cap, ball cap",
    "beanie": "beanie*3, beanie hat, winter hat, stocking cap",
    "gloves": "gloves*3",
    "long gloves": "long gloves*2, elbow-length gloves, opera gloves, over-the-elbow gloves",
    "belt": "belt*3, waist belt, buckled belt",
    "necklace": "necklace*3, chain, neck chain, chain necklace, collar necklace",
    "scarf": "scarf*3, neck scarf, muffler, neckerchief",
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
"""Whatever they are called, their name tells the material."""

EMPTY_ADJECTIVES = (
    "elegant, beautiful, nice, lovely, stylish, fashionable, trendy, vintage, retro, classic, casual, cosy, "
    "cozy, comfy, modern, simple, plain, neat, designer, favourite, favorite, gorgeous, brand-new, new, "
    "smart, fancy, chic, expensive, everyday, well-made, fitted, Italian-made, handmade, timeless"
)

# People ------------------------------------------------------------------------------------------------

NOUNS: dict[str, dict[str, str]] = {  # by sex and age (people.AGES)
    "male": {
        "child": "boy*3, little boy, young boy, schoolboy, child, kid",
        "teen": "teenage boy*2, teenager, adolescent boy, teen, male teenager",
        "young": (
            "young man*2, man*2, guy, young gentleman, lad, young guy, young male model, male student, son, "
            "young actor, person"
        ),
        "adult": (
            "man*4, guy, gentleman, male, male model, father, dad, husband, businessman, actor, waiter, "
            "brother, uncle, king, prince, hero, person"
        ),
        "middle-aged": "middle-aged man*2, middle-aged gentleman, middle-aged guy, man",
        "old": (
            "old man*2, elderly man, elderly gentleman, senior man, grandfather, grandpa, old gentleman, "
            "elderly guy, aged man, male pensioner"
        ),
    },
    "female": {
        "child": "girl*3, little girl, young girl, schoolgirl, child, kid",
        "teen": "teenage girl*2, teenager, adolescent girl, teen, female teenager",
        "young": (
            "young woman*2, woman*2, lady, young lady, young female model, female student, daughter, young "
            "actress, princess, person"
        ),
        "adult": (
            "woman*4, lady, female, female model, mother, mum, mom, wife, businesswoman, actress, waitress, "
            "sister, aunt, queen, princess, heroine, person"
        ),
        "middle-aged": "middle-aged woman*2, middle-aged lady, middle-aged mother, woman",
        "old": (
            "old woman*2, elderly woman, elderly lady, senior woman, grandmother, grandma, granny, old "
            "lady, aged woman, female pensioner"
        ),
    },
    "neutral": {
        "child": "child*2, kid",
        "teen": "teenager, teen, adolescent",
        "young": "young person, young adult, person, student",
        "adult": "person*2, adult, human, figure, individual",
        "middle-aged": "middle-aged person, person",
        "old": "old person, elderly person, senior, pensioner",
    },
}
TRADES = (
    "model*2, fashion model, dancer, athlete, teacher, doctor, nurse, singer, worker, artist, tourist, "
    "lawyer, pianist, librarian, photographer, traveller, traveler, designer, engineer, scientist, "
    "reporter, writer, chef"
)
BUILDS: dict[str, str] = {
    "heavy": "heavy, heavy-set, heavyset, overweight, plump, chubby, stout, fat, obese",
    "slim": "slim*2, slender, thin, skinny, lean",
    "muscular": "muscular*2, athletic, strong, well-built",
    "tall": "tall*2, very tall",
    "short": "short*2, rather short",
}
ANCESTRIES: dict[str, str] = {
    "african": "African*2, Nigerian, Kenyan, Ethiopian, African-American",
    "asian": "Asian*2, Chinese, Japanese, Korean, Vietnamese, Thai",
    "caucasian": "European, Caucasian, Scandinavian",
}
MANNERS: dict[str, str] = {  # adjectives that do not change the picture
    "male": "handsome, smiling, friendly, good-looking, serious, happy, charming",
    "female": "beautiful, pretty, smiling, friendly, elegant, gorgeous, stunning, happy",
    "neutral": "smiling, friendly, happy, serious",
}

SKINS: dict[str, str] = {
    "pale": "pale skin, very pale skin, fair skin, white skin, light skin, porcelain skin",
    "light": "light skin, fair skin, light skin tone, fair complexion",
    "tanned": "tanned skin, olive skin, tan skin, bronzed skin, sun-tanned skin",
    "brown": "brown skin*2, light brown skin, medium-dark skin",
    "dark": "dark skin*2, dark brown skin, dark complexion",
    "very dark": "very dark skin, dark skin, black skin, deep dark skin",
}
HAIR_WORDS: dict[str, str] = {
    "black": "black*2, jet-black, dark, raven",
    "brown": "brown*3, brunette, dark brown, mousy brown",
    "blonde": "blonde*2, blond*2, golden, fair, honey-blonde, flaxen",
    "red": "red*2, ginger*2, auburn, copper, reddish",
    "grey": "grey*2, gray*2, silver, silver-grey, salt-and-pepper",
    "white": "white*2, snow-white, silver-white",
    "pink": "pink*2, dyed pink, rose-pink",
    "blue": "blue*2, dyed blue, bright blue",
}
HAIR_FORMS: dict[str, str] = {  # {} is the colour
    "bald": "a bald head, no hair, a shaved head, a shaven head, a hairless head",
    "short": (
        "short {} hair*3, short-cropped {} hair, cropped {} hair, {} hair cut short, a short {} haircut, "
        "short-cut {} hair"
    ),
    "bob": "a {} bob*2, bobbed {} hair, chin-length {} hair, a {} bob cut, {} hair in a bob",
    "long": "long {} hair*3, long flowing {} hair, long loose {} hair, long {} locks",
    "ponytail": (
        "a {} ponytail, {} hair in a ponytail, a {} pony tail, {} hair tied in a ponytail, {} ponytail hair"
    ),
    "braid": (
        "a {} braid, {} hair in a braid, braided {} hair, a long {} braid, a {} plait, plaited {} hair"
    ),
    "afro": ("a {} afro, an afro of {} hair, curly {} hair*2, frizzy {} hair, {} curls, a {} afro hairstyle"),
    "bun": (
        "{} hair in a bun, a {} bun, {} hair tied up, a {} updo, {} hair tied in a bun, {} hair up in a bun"
    ),
}
EYE_WORDS: dict[str, str] = {
    "brownlight": "brown",
    "blue": "blue",
    "lightblue": "light blue",
    "ice": "pale blue",
    "bluegreen": "blue-green",
    "green": "green",
    "grey": "grey",
}
PRONOUNS = {"male": ("he", "his"), "female": ("she", "her"), "neutral": ("they", "their")}

# Around a description ----------------------------------------------------------------------------------

LEADS = (
    "a photo of, a picture of, a portrait of, a full body photo of, full-body shot of, photo of, portrait "
    "of, image of, an image of, a 3d model of, 3d avatar of, an avatar of, a full-length portrait of, a "
    "rendering of, a drawing of, I want, please make, make me, create, generate, show me, a studio photo "
    "of, a realistic picture of, character:"
)
TAILS = (
    "studio light, high quality, realistic, 4k, 8k, full body, full length, highly detailed, 3d, photo, "
    "photorealistic, standing, facing the camera, soft light, sharp focus, plain background, grey "
    "background, masterpiece, best quality, octane render, trending online, unreal engine, cinematic, in "
    "natural light, A-pose, standing still, smiling, with a smile, looking at the camera, high resolution, "
    "professional photo, catalogue photo, game character"
)
PLACES = (
    "Paris, Kyoto, Lisbon, New York, Reykjavik, the park, the street, a garden, the office, a café, the "
    "beach, summer, winter, the mountains, a museum, the evenings, front of a window, a station, the "
    "kitchen, Buenos Aires, the rain"
)
VIEWS_OF_LOW_QUALITY = ("blurry", "noisy", "low quality", "blurry, noisy, low quality")
"""Captions of views that were spoilt on purpose, for negative prompts."""
GIVEN_NAMES: dict[str, str] = {
    "male": (
        "Tomas, Liam, Kofi, Hiroshi, Pedro, Ahmed, Piotr, David, Samuel, Raj, Erik, John, Paulo, Mehmet"
    ),
    "female": (
        "Anika, Olga, Zehra, Maria, Fatima, Yuki, Chloe, Ingrid, Amara, Sofia, Priya, Emma, Eileen, Leila"
    ),
    "neutral": "Alex, Sam, Kim, Robin, Charlie",
}
SYLLABLES = "ba, ko, ri, zu, le, mo, ta, vi, ne, dra, sho, lu, ky, pel, var, en"

# Reserved for the benchmark ----------------------------------------------------------------------------

TEST_WORDS = (
    # colours
    "crimson", "vermilion", "sapphire", "cerulean", "jade", "viridian", "canary", "daffodil", "ebony", "onyx",
    "alabaster", "chalk", "charcoal", "pewter", "chestnut", "walnut", "pumpkin", "apricot", "carrot",
    "amethyst", "aubergine", "flamingo", "bubblegum", "midnight", "inky",
    # clothes
    "frock", "slacks", "jersey", "pullover", "camisole", "windbreaker", "waistcoat", "mackintosh", "snowsuit",
    "pantsuit", "boilersuit", "miniskirt", "evening gown", "cashmere", "taffeta", "velvet", "trouser suit",
    # turns of phrase
    "clad in", "attired in", "sporting", "has on", "outfitted in", "decked out in", "and the", "chose",
    "put on", "garbed in", "the colour of",
)  # fmt: skip
