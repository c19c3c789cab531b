//! The words of the corpus: made up for it. The places, buyers and firms do not exist; the codes
//! (countries, languages, NUTS, CPV) do. Text beyond ASCII is written in escapes.

/// A language of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Language {
    /// As in standard forms.
    pub(super) two: &'static str,
    /// As in eForms.
    pub(super) three: &'static str,
    /// Names of buyers; `{}` is the place.
    pub(super) buyers: [&'static str; 3],
    pub(super) sentences: [&'static str; 6],
}

/// A country with made-up towns in real regions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Country {
    pub(super) two: &'static str,
    pub(super) three: &'static str,
    pub(super) name: &'static str,
    /// Places in `LANGUAGES`; the first is the one notices are mostly written in.
    pub(super) languages: &'static [usize],
    /// Town and NUTS code.
    pub(super) towns: &'static [(&'static str, &'static str)],
}

/// Something to buy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub(super) cpv: &'static str,
    pub(super) more_cpv: &'static [&'static str],
    /// The eForms code of the contract's nature.
    pub(super) nature: &'static str,
    /// The title in each of `LANGUAGES`.
    pub(super) titles: [&'static str; 8],
}

pub(super) const LANGUAGES: [Language; 8] = [
    Language {
        two: "EN",
        three: "ENG",
        buyers: [
            "{} County Council",
            "{} Regional Health Board",
            "University of {}",
        ],
        sentences: [
            "The contract covers planning, delivery and acceptance at the sites named in the \
             documents.",
            "The contractor names a contact who can be reached on working days within two hours.",
            "Offers for single lots are welcome; discounts for combinations are not taken into \
             account.",
            "Quantities are estimates of the past two years and may change by a fifth.",
            "All results are handed over in an open format, \"as is\" & without further fees.",
            "The term may be extended twice by twelve months each.",
        ],
    },
    Language {
        two: "DE",
        three: "DEU",
        buyers: [
            "Stadt {} \u{2013} Zentrale Vergabestelle",
            "Zweckverband {}",
            "Klinikum {} gGmbH",
        ],
        sentences: [
            "Die Leistung umfasst Planung, Lieferung und Abnahme an den in den Unterlagen \
             genannten Orten.",
            "Der Auftragnehmer benennt eine Person, die an Werktagen binnen zwei Stunden \
             erreichbar ist.",
            "Angebote f\u{fc}r einzelne Lose sind zul\u{e4}ssig; Nachl\u{e4}sse f\u{fc}r \
             Kombinationen bleiben au\u{df}er Betracht.",
            "Die Mengen sind aus den letzten zwei Jahren gesch\u{e4}tzt und k\u{f6}nnen um ein \
             F\u{fc}nftel abweichen.",
            "Alle Ergebnisse sind in einem offenen Format und ohne weitere Geb\u{fc}hren zu \
             \u{fc}bergeben.",
            "Die Laufzeit kann zweimal um je zw\u{f6}lf Monate verl\u{e4}ngert werden.",
        ],
    },
    Language {
        two: "FR",
        three: "FRA",
        buyers: [
            "Commune de {}",
            "Centre hospitalier de {}",
            "Syndicat intercommunal de {}",
        ],
        sentences: [
            "Le march\u{e9} comprend la pr\u{e9}paration, la livraison et la r\u{e9}ception sur \
             les sites indiqu\u{e9}s au dossier.",
            "Le titulaire d\u{e9}signe un interlocuteur joignable les jours ouvr\u{e9}s dans un \
             d\u{e9}lai de deux heures.",
            "Les offres pour un seul lot sont admises ; les remises pour groupement ne sont pas \
             prises en compte.",
            "Les quantit\u{e9}s sont estim\u{e9}es sur deux ann\u{e9}es et peuvent varier \
             d\u{2019}un cinqui\u{e8}me.",
            "Tous les r\u{e9}sultats sont remis dans un format ouvert et sans frais \
             suppl\u{e9}mentaires.",
            "La dur\u{e9}e peut \u{ea}tre prolong\u{e9}e deux fois de douze mois.",
        ],
    },
    Language {
        two: "PL",
        three: "POL",
        buyers: [
            "Gmina {}",
            "Szpital Wojew\u{f3}dzki w {}",
            "Zarz\u{105}d Dr\u{f3}g w {}",
        ],
        sentences: [
            "Zam\u{f3}wienie obejmuje przygotowanie, dostaw\u{119} i odbi\u{f3}r w miejscach \
             podanych w dokumentach.",
            "Wykonawca wyznacza osob\u{119} dost\u{119}pn\u{105} w dni robocze w ci\u{105}gu \
             dw\u{f3}ch godzin.",
            "Dopuszcza si\u{119} oferty na pojedyncze cz\u{119}\u{15b}ci; rabat\u{f3}w za \
             \u{142}\u{105}czenie nie uwzgl\u{119}dnia si\u{119}.",
            "Ilo\u{15b}ci oszacowano na podstawie dw\u{f3}ch lat i mog\u{105} si\u{119} \
             zmieni\u{107} o jedn\u{105} pi\u{105}t\u{105}.",
            "Wszystkie wyniki przekazuje si\u{119} w otwartym formacie i bez dodatkowych \
             op\u{142}at.",
            "Okres mo\u{17c}na przed\u{142}u\u{17c}y\u{107} dwukrotnie o dwana\u{15b}cie \
             miesi\u{119}cy.",
        ],
    },
    Language {
        two: "ES",
        three: "SPA",
        buyers: [
            "Ayuntamiento de {}",
            "Hospital Comarcal de {}",
            "Diputaci\u{f3}n de {}",
        ],
        sentences: [
            "El contrato abarca la preparaci\u{f3}n, la entrega y la recepci\u{f3}n en los \
             lugares indicados en los pliegos.",
            "El contratista designa a una persona localizable en d\u{ed}as laborables en dos \
             horas.",
            "Se admiten ofertas para un solo lote; no se tienen en cuenta descuentos por \
             combinaci\u{f3}n.",
            "Las cantidades se han estimado a partir de dos a\u{f1}os y pueden variar en una \
             quinta parte.",
            "Todos los resultados se entregan en un formato abierto y sin m\u{e1}s gastos.",
            "El plazo puede prorrogarse dos veces por doce meses.",
        ],
    },
    Language {
        two: "IT",
        three: "ITA",
        buyers: [
            "Comune di {}",
            "Azienda Sanitaria di {}",
            "Consorzio dei servizi di {}",
        ],
        sentences: [
            "L\u{2019}appalto comprende preparazione, consegna e collaudo nei luoghi indicati \
             nei documenti.",
            "L\u{2019}aggiudicatario nomina un referente reperibile nei giorni lavorativi entro \
             due ore.",
            "Sono ammesse offerte per singoli lotti; gli sconti per combinazioni non sono \
             considerati.",
            "Le quantit\u{e0} sono stimate su due anni e possono variare di un quinto.",
            "Tutti i risultati sono consegnati in un formato aperto e senza ulteriori costi.",
            "La durata pu\u{f2} essere prorogata due volte per dodici mesi.",
        ],
    },
    Language {
        two: "NL",
        three: "NLD",
        buyers: ["Gemeente {}", "Waterschap {}", "Ziekenhuis {}"],
        sentences: [
            "De opdracht omvat voorbereiding, levering en oplevering op de plaatsen die in de \
             stukken staan.",
            "De opdrachtnemer wijst een persoon aan die op werkdagen binnen twee uur bereikbaar \
             is.",
            "Inschrijven op \u{e9}\u{e9}n perceel is toegestaan; kortingen voor combinaties \
             tellen niet mee.",
            "De hoeveelheden zijn geschat over twee jaar en kunnen een vijfde afwijken.",
            "Alle resultaten worden in een open formaat en zonder verdere kosten overgedragen.",
            "De looptijd kan tweemaal met twaalf maanden worden verlengd.",
        ],
    },
    Language {
        two: "SV",
        three: "SWE",
        buyers: ["{} kommun", "Region {}", "{} lasarett"],
        sentences: [
            "Uppdraget omfattar planering, leverans och godk\u{e4}nnande p\u{e5} de platser som \
             anges i underlaget.",
            "Leverant\u{f6}ren utser en person som kan n\u{e5}s p\u{e5} vardagar inom tv\u{e5} \
             timmar.",
            "Anbud p\u{e5} enstaka delar \u{e4}r till\u{e5}tna; rabatter f\u{f6}r kombinationer \
             beaktas inte.",
            "M\u{e4}ngderna \u{e4}r uppskattade fr\u{e5}n tv\u{e5} \u{e5}r och kan \u{e4}ndras \
             med en femtedel.",
            "Alla resultat \u{f6}verl\u{e4}mnas i ett \u{f6}ppet format och utan ytterligare \
             avgifter.",
            "Avtalstiden kan f\u{f6}rl\u{e4}ngas tv\u{e5} g\u{e5}nger med tolv m\u{e5}nader.",
        ],
    },
];

/// With weights: share of notices per mille, from `country_weight_ASSUMPTION` of the domain's
/// frequencies (an assumption there; Germany anchored at 18.8 % in 2025).
pub(super) const COUNTRIES: [(u32, Country); 11] = [
    (
        179,
        Country {
            two: "DE",
            three: "DEU",
            name: "Deutschland",
            languages: &[1],
            towns: &[
                ("Neuwalden", "DE212"),
                ("Oberfeldheim", "DE600"),
                ("M\u{fc}hlrode", "DEA23"),
            ],
        },
    ),
    (
        123,
        Country {
            two: "FR",
            three: "FRA",
            name: "France",
            languages: &[2],
            towns: &[
                ("Saint-Orme-sur-Lys", "FR101"),
                ("Valbr\u{e8}de", "FRK26"),
                ("Port-Clairval", "FRL04"),
            ],
        },
    ),
    (
        113,
        Country {
            two: "PL",
            three: "POL",
            name: "Polska",
            languages: &[3],
            towns: &[
                ("Brzozogr\u{f3}d", "PL911"),
                ("\u{141}\u{105}kowice", "PL213"),
                ("Nowe Stawy", "PL514"),
            ],
        },
    ),
    (
        76,
        Country {
            two: "ES",
            three: "ESP",
            name: "Espa\u{f1}a",
            languages: &[4],
            towns: &[
                ("Villarena de la Sierra", "ES300"),
                ("Montclar", "ES511"),
                ("Pe\u{f1}asol", "ES618"),
            ],
        },
    ),
    (
        57,
        Country {
            two: "IT",
            three: "ITA",
            name: "Italia",
            languages: &[5],
            towns: &[
                ("Borgoverde", "ITC4C"),
                ("Castelmare Alto", "ITI43"),
                ("Pontelungo", "ITF33"),
            ],
        },
    ),
    (
        33,
        Country {
            two: "NL",
            three: "NLD",
            name: "Nederland",
            languages: &[6],
            towns: &[
                ("Waterhoven", "NL329"),
                ("Duinbeek", "NL33C"),
                ("Eemstede", "NL310"),
            ],
        },
    ),
    (
        33,
        Country {
            two: "SE",
            three: "SWE",
            name: "Sverige",
            languages: &[7],
            towns: &[("Bj\u{f6}rkvik", "SE110"), ("\u{c4}ngshamn", "SE232")],
        },
    ),
    (
        28,
        Country {
            two: "BE",
            three: "BEL",
            name: "Belgi\u{eb}/Belgique",
            languages: &[6, 2],
            towns: &[
                ("Lindewoude", "BE211"),
                ("Valmeuse", "BE332"),
                ("Zennebrug", "BE100"),
            ],
        },
    ),
    (
        24,
        Country {
            two: "AT",
            three: "AUT",
            name: "\u{d6}sterreich",
            languages: &[1],
            towns: &[("Steinachtal", "AT221"), ("Donauried", "AT130")],
        },
    ),
    (
        9,
        Country {
            two: "IE",
            three: "IRL",
            name: "Ireland",
            languages: &[0],
            towns: &[("Ballyfennor", "IE061"), ("Carrowmere", "IE053")],
        },
    ),
    (
        7,
        Country {
            two: "LU",
            three: "LUX",
            name: "Luxembourg",
            languages: &[2, 1],
            towns: &[("Belvaux-le-Haut", "LU000")],
        },
    ),
];

pub(super) const SUBJECTS: [Subject; 10] = [
    Subject {
        cpv: "72200000",
        more_cpv: &["72230000", "48000000"],
        nature: "services",
        titles: [
            "Records management software",
            "Software f\u{fc}r die Aktenverwaltung",
            "Logiciel de gestion des dossiers",
            "Oprogramowanie do zarz\u{105}dzania aktami",
            "Software de gesti\u{f3}n de expedientes",
            "Software per la gestione dei fascicoli",
            "Software voor dossierbeheer",
            "Programvara f\u{f6}r \u{e4}rendehantering",
        ],
    },
    Subject {
        cpv: "45233120",
        more_cpv: &["45233140", "45112500"],
        nature: "works",
        titles: [
            "Road construction works",
            "Stra\u{df}enbauarbeiten",
            "Travaux de construction de routes",
            "Roboty budowlane w zakresie dr\u{f3}g",
            "Obras de construcci\u{f3}n de carreteras",
            "Lavori di costruzione di strade",
            "Wegenbouwwerken",
            "V\u{e4}gbyggnadsarbeten",
        ],
    },
    Subject {
        cpv: "33140000",
        more_cpv: &["33141000"],
        nature: "supplies",
        titles: [
            "Medical consumables",
            "Medizinische Verbrauchsmaterialien",
            "Consommables m\u{e9}dicaux",
            "Medyczne materia\u{142}y zu\u{17c}ywalne",
            "Material m\u{e9}dico fungible",
            "Materiali medici di consumo",
            "Medische verbruiksgoederen",
            "Medicinska f\u{f6}rbrukningsartiklar",
        ],
    },
    Subject {
        cpv: "90910000",
        more_cpv: &["90911200", "90919200"],
        nature: "services",
        titles: [
            "Cleaning of public buildings",
            "Reinigung \u{f6}ffentlicher Geb\u{e4}ude",
            "Nettoyage des b\u{e2}timents publics",
            "Sprz\u{105}tanie budynk\u{f3}w publicznych",
            "Limpieza de edificios p\u{fa}blicos",
            "Pulizia di edifici pubblici",
            "Schoonmaak van openbare gebouwen",
            "St\u{e4}dning av offentliga byggnader",
        ],
    },
    Subject {
        cpv: "34121000",
        more_cpv: &["50113000"],
        nature: "supplies",
        titles: [
            "Low-floor buses",
            "Niederflurbusse",
            "Autobus \u{e0} plancher surbaiss\u{e9}",
            "Autobusy niskopod\u{142}ogowe",
            "Autobuses de piso bajo",
            "Autobus a pianale ribassato",
            "Lagevloerbussen",
            "L\u{e5}ggolvsbussar",
        ],
    },
    Subject {
        cpv: "71320000",
        more_cpv: &["71240000", "71300000"],
        nature: "services",
        titles: [
            "Engineering design for a school",
            "Fachplanung f\u{fc}r einen Schulneubau",
            "\u{c9}tudes techniques pour une \u{e9}cole",
            "Projekt techniczny szko\u{142}y",
            "Proyecto t\u{e9}cnico de una escuela",
            "Progettazione tecnica di una scuola",
            "Technisch ontwerp van een school",
            "Teknisk projektering av en skola",
        ],
    },
    Subject {
        cpv: "09310000",
        more_cpv: &[],
        nature: "supplies",
        titles: [
            "Supply of green electricity",
            "Lieferung von \u{d6}kostrom",
            "Fourniture d\u{2019}\u{e9}lectricit\u{e9} verte",
            "Dostawa zielonej energii",
            "Suministro de electricidad verde",
            "Fornitura di energia elettrica verde",
            "Levering van groene stroom",
            "Leverans av gr\u{f6}n el",
        ],
    },
    Subject {
        cpv: "80500000",
        more_cpv: &["80510000"],
        nature: "services",
        titles: [
            "Training of care staff",
            "Schulung von Pflegekr\u{e4}ften",
            "Formation du personnel soignant",
            "Szkolenie personelu opieku\u{144}czego",
            "Formaci\u{f3}n de personal asistencial",
            "Formazione del personale di cura",
            "Opleiding van zorgpersoneel",
            "Utbildning av v\u{e5}rdpersonal",
        ],
    },
    Subject {
        cpv: "77310000",
        more_cpv: &["77340000"],
        nature: "services",
        titles: [
            "Care of parks and trees",
            "Pflege von Gr\u{fc}nanlagen und B\u{e4}umen",
            "Entretien des parcs et des arbres",
            "Piel\u{119}gnacja park\u{f3}w i drzew",
            "Cuidado de parques y \u{e1}rboles",
            "Cura di parchi e alberi",
            "Onderhoud van parken en bomen",
            "Sk\u{f6}tsel av parker och tr\u{e4}d",
        ],
    },
    Subject {
        cpv: "39160000",
        more_cpv: &["39130000"],
        nature: "supplies",
        titles: [
            "School and office furniture",
            "Schul- und B\u{fc}rom\u{f6}bel",
            "Mobilier scolaire et de bureau",
            "Meble szkolne i biurowe",
            "Mobiliario escolar y de oficina",
            "Arredi scolastici e per ufficio",
            "School- en kantoormeubilair",
            "Skol- och kontorsm\u{f6}bler",
        ],
    },
];

pub(super) const FIRMS: [&str; 10] = [
    "Aldermoor Systems",
    "Bergquell Technik",
    "Corvane & Partner",
    "Delmara Group",
    "Estrano Costruzioni",
    "Fjellvik Konsult",
    "Granitor Bau",
    "Hollebeek Diensten",
    "Ilmare Servizi",
    "Jaskier Budowa",
];
