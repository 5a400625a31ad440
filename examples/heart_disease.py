"""Heart disease at four hospitals: what is federated learning worth to each of them?

Logistic regression on the UCI Heart Disease files, prepared as in FLamby (Ogier du Terrail et al.,
NeurIPS 2022): 13 features, 740 rows, 66 % of each hospital's for training, standardised by combined
counts and sums, so that no row leaves its hospital. All models are trained until they converge: two
steps a round on all of a hospital's rows, 100 rounds.

    python examples/heart_disease.py           the comparison over 20 seeds, in about a minute
    tacit compare examples/heart_disease.py    one seed, as a table and a report
"""

import numpy as np
from torch.nn.functional import cross_entropy

import tacit

WAYS = {"alone": tacit.Alone(), "FedAvg": tacit.FedAvg(), "pooled": tacit.Pooled()}


def heart_disease(seed: int) -> tacit.Experiment:
    """The seed decides about the split into training and test rows, and about training."""
    return tacit.Experiment(
        data=tacit.data.load("heart-disease", seed=seed),
        model=lambda: tacit.models.logistic(13, 2),
        loss=cross_entropy,
        training=tacit.SGD(lr=1.0, batch_size=None, epochs=2),
        rounds=100,
        seed=seed,
    )


experiment = heart_disease(seed=0)


def scores(seed: int) -> dict[str, dict[str, float]]:
    """Accuracy and AUC over all test rows, and the AUC of every hospital, by way of learning."""
    base = heart_disease(seed).replace(evaluate_every=100)
    found = {}
    for name, algorithm in WAYS.items():
        result = tacit.run(base.replace(algorithm=algorithm))
        last = result.metrics[-1]
        found[name] = {"accuracy": last["accuracy"], "auc": last["auc"]}
        found[name] |= {row["node"]: row["auc"] for row in result.nodes}
    return found


def mean_scores(seeds: range) -> dict[str, dict[str, float]]:
    """The mean of ``scores`` over seeds."""
    runs = [scores(seed) for seed in seeds]
    return {
        way: {name: float(np.mean([run[way][name] for run in runs])) for name in runs[0][way]}
        for way in WAYS
    }


def main() -> None:
    """Print the comparison."""
    seeds = range(20)
    mean = mean_scores(seeds)
    columns = list(mean["alone"])
    print(f"Means over {len(seeds)} seeds; a hospital's column is the AUC on its own test rows.")
    print("Switzerland has one healthy patient, too few for an AUC.\n")
    print(" " * 8 + "".join(f"{column:>13}" for column in columns))
    for way, values in mean.items():
        print(f"{way:8}" + "".join(f"{values[column]:13.3f}" for column in columns))
    accuracy, auc = (mean["FedAvg"][m] - mean["pooled"][m] for m in ("accuracy", "auc"))
    as_good = abs(accuracy) <= 0.005 and abs(auc) <= 0.01
    print(
        f"\nFedAvg against pooled: accuracy {accuracy:+.4f}, AUC {auc:+.4f};"
        f" {'equal' if as_good else 'not equal'} within 0.005 and 0.01."
    )
    print(f"VA gains {mean['FedAvg']['va'] - mean['alone']['va']:+.3f} AUC over training alone.")


if __name__ == "__main__":
    main()
