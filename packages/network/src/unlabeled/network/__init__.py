"""Network: packets, flows and URLs. Listing this package imports neither torch nor lightning."""

from unlabeled.core.contracts import Domain, Head, MethodCard

_HERE = "unlabeled.network"
_TESTS = "packages/network/tests"


def _baseline(name: str, family: str, target: str, summary: str, paper: str = "") -> MethodCard:
    module = target.partition(":")[0].replace(".", "_")
    return MethodCard(name, "baseline", family, f"{_HERE}.{target}", summary, paper, test=f"{_TESTS}/test_{module}.py")


domain = Domain(
    name="network",
    title="Network",
    summary="captures of packets as flows (pcap, pcapng), tables of flows (Zeek, NetFlow) and lists of URLs",
    reader=f"{_HERE}.read:Reader",
    options=f"{_HERE}.options:ReaderOptions",
    axes=("burst", "packet", "place"),
    formats=(".pcap", ".pcapng", ".cap", ".gz", ".arrow", ".log", ".csv", ".urls"),
    encoders={"flow": f"{_HERE}.encoder:FlowEncoder"},
    views={
        name: f"{_HERE}.views:{name}"
        for name in ("drop_packets", "drop_fields", "drop_kinds", "jitter_gaps", "first_bursts")
    },
    methods=(
        MethodCard(
            name="netfound",
            kind="method",
            family="predict what is hidden",
            target=f"{_HERE}.methods.netfound:NetFound",
            summary="name hidden header fields, tell flows with a foreign burst, and predict the metadata of hidden bursts",
            paper="Guthula et al. 2023, netFound: Foundation Model for Network Security, arXiv 2310.17025",
            seeds=("S037",),
            test=f"{_TESTS}/methods/test_netfound.py",
        ),
        MethodCard(
            name="masked_packets",
            kind="method",
            family="predict what is hidden",
            target=f"{_HERE}.methods.masked_packets:MaskedPackets",
            summary="hide fields, whole packets or bursts of a flow, and name the bytes of each hidden field",
            paper="Devlin et al. 2019, BERT, on the fields of packets as in netFound",
            seeds=("S037",),
            test=f"{_TESTS}/methods/test_masked_packets.py",
        ),
        MethodCard(
            name="replaced_fields",
            kind="method",
            family="predict what is hidden",
            target=f"{_HERE}.methods.replaced_fields:ReplacedFields",
            summary="tell which header fields a small generator replaced; no task that arithmetic solves",
            paper="Clark et al. 2020, ELECTRA, on the fields of packets",
            seeds=("S056",),
            test=f"{_TESTS}/methods/test_replaced_fields.py",
        ),
        MethodCard(
            name="urlbert",
            kind="method",
            family="predict what is hidden",
            target=f"{_HERE}.methods.urlbert:URLBERT",
            summary="name hidden tokens of a URL, agree across its rewritings, and stay the same under small perturbations",
            paper="Li et al. 2024, URLBERT: A Contrastive and Adversarial Pre-trained Model for URL Classification, arXiv 2402.11495",
            seeds=("S191",),
            test=f"{_TESTS}/methods/test_urlbert.py",
        ),
    ),
    baselines=(
        _baseline(
            "statistics+logreg",
            "flow statistics",
            "baselines:Statistics",
            "sizes and times of a flow, logistic regression",
        ),
        _baseline(
            "statistics+boosting", "flow statistics", "baselines:Statistics", "the same, gradient boosting of trees"
        ),
        _baseline("ports+forest", "shortcuts", "baselines:Ports", "the two port numbers alone, random forest"),
        _baseline(
            "ngrams+logreg",
            "texts",
            "url.baselines:NGrams",
            "hashed 3- to 5-grams of a URL's characters, logistic regression",
        ),
        _baseline(
            "lengths+forest", "shortcuts", "url.baselines:Lengths", "how long the parts of a URL are, random forest"
        ),
    ),
    heads=(
        Head(
            "classify",
            "classification",
            "macro_f1",
            "one class for each flow or URL: an application, a service, a category",
        ),
        Head("tag", "multilabel", "macro_map", "any number of labels for each flow or URL"),
        Head("regress", "regression", "mae", "one value for each flow or URL"),
    ),
    writers={"flows": f"{_HERE}.write:flows", "zeek": f"{_HERE}.write:zeek"},
    recipes=f"{_HERE}.recipes",
    samples={"services": f"{_HERE}.samples:services", "domains": f"{_HERE}.samples:domains"},
    verbs={
        "flows": f"{_HERE}.flow.shards:flows",
        "labels": f"{_HERE}.labelling:labels",
        "leakcheck": f"{_HERE}.leaks.leakcheck:leakcheck",
        "anonymise": f"{_HERE}.privacy.anonymise:anonymise",
        "anomalies": f"{_HERE}.anomaly.anomalies:anomalies",
        "tokenizer": f"{_HERE}.url.tokens:tokenizer",
    },
    demo=f"{_HERE}.demo:demo",
)
