"""The figures and tables of the paper, its draft and this book, and which notebook shows each."""

from __future__ import annotations

from typing import NamedTuple


class Exhibit(NamedTuple):
    """A figure or table of the paper, its draft, or this book.

    Attributes:
        id: Anchor in the book.
        place: Where it stands: 'Figure 2', 'Table 1', 'draft Figure S2', 'book Figure 1.1'.
        title: What it shows.
        notebook: The notebook that shows it, or will.
    """

    id: str
    place: str
    title: str
    notebook: str


EXHIBITS = (
    Exhibit("paper-fig-1", "Figure 1", "Loss landscape and its directions", "04_squared"),
    Exhibit("paper-table-1", "Table 1", "The four toy models and their properties", "04_squared"),
    Exhibit("paper-fig-2", "Figure 2", "Subnetworks of the toy model of superposition", "01_superposition"),
    Exhibit("paper-fig-3", "Figure 3", "Directions of the model and of its subnetworks", "01_superposition"),
    Exhibit("paper-fig-4", "Figure 4", "Outputs after an intervention on each subnetwork", "01_superposition"),
    Exhibit("paper-fig-5", "Figure 5", "Change of each output along each subnetwork", "01_superposition"),
    Exhibit("draft-fig-s2", "draft Figure S2", "Encoder directions in the hidden layer", "01_superposition"),
    Exhibit("paper-fig-6", "Figure 6", "Subnetworks of circuit superposition", "02_circuit_superposition"),
    Exhibit("paper-fig-7", "Figure 7", "Coefficients of A against those derived", "02_circuit_superposition"),
    Exhibit("paper-fig-8", "Figure 8", "Subnetworks of higher-rank circuits", "03_high_rank"),
    Exhibit("paper-fig-s1", "Figure S1", "Architecture of the higher-rank model", "03_high_rank"),
    Exhibit("paper-fig-s2", "Figure S2", "Reconstruction loss against rank", "03_high_rank"),
    Exhibit("paper-fig-s3", "Figure S3", "Higher-rank decomposition of rank 1; 3 and 5 beside it", "03_high_rank"),
    Exhibit("paper-fig-9", "Figure 9", "Subnetworks of the squaring model", "04_squared"),
    Exhibit("paper-fig-10", "Figure 10", "Interventions on the squaring model", "04_squared"),
    Exhibit("paper-fig-s4", "Figure S4", "Interventions of six sizes", "04_squared"),
    Exhibit("paper-fig-s5", "Figure S5", "Interventions on two subnetworks at once", "04_squared"),
    Exhibit("paper-fig-s6", "Figure S6", "Squaring model with 3, 5, 10 and 15 subnetworks", "04_squared"),
    Exhibit("paper-fig-s7", "Figure S7", "Training loss against number of subnetworks", "04_squared"),
    Exhibit("paper-table-2", "Table 2", "Ten subnetworks of a language model", "05_language_model"),
    Exhibit("paper-table-c01", "Section C.0.1", "All subnetworks of a language model", "05_language_model"),
    Exhibit("paper-fig-11", "Figure 11", "Ten subnetworks of a vision model", "06_vision"),
    Exhibit("paper-fig-c02", "Section C.0.2", "All subnetworks of a vision model", "06_vision"),
    Exhibit("high-rank-s3-3", "Figure S3, rank 3", "Higher-rank decomposition of rank 3", "03_high_rank"),
    Exhibit("high-rank-s3-5", "Figure S3, rank 5", "Higher-rank decomposition of rank 5", "03_high_rank"),
    Exhibit("paper-fig-s6-5", "Figure S6, 5 subnetworks", "Squaring model with 5 subnetworks", "04_squared"),
    Exhibit("paper-fig-s6-10", "Figure S6, 10 subnetworks", "Squaring model with 10 subnetworks", "04_squared"),
    Exhibit("paper-fig-s6-15", "Figure S6, 15 subnetworks", "Squaring model with 15 subnetworks", "04_squared"),
    Exhibit("draft-hidden", "draft Figure S8", "Interventions on the hidden layers alone", "04_squared"),
    Exhibit("recon-variants", "book Figure 1.1", "Reconstruction error of three variants", "01_superposition"),
    Exhibit("recovery", "book Figure 1.2", "Recovery of the five features over targets", "01_superposition"),
    Exhibit("reference-kinds", "book Figure 1.3", "Three kinds of reference output", "01_superposition"),
    Exhibit("sizes", "book Figure 1.4", "Reconstruction error against dimension", "01_superposition"),
    Exhibit("switches", "book Table 1.1", "Which departure from the text moves the error", "01_superposition"),
    Exhibit("interference", "book Table 1.2", "Error with one and with several active features", "01_superposition"),
    Exhibit("recovery-counts", "book Table 1.3", "Recovery of the five features over targets", "01_superposition"),
    Exhibit("tuning", "book Table 1.4", "The candidates for the tuned variant", "01_superposition"),
    Exhibit("tms-ablation", "book Table 1.5", "Every departure from the text, one at a time", "01_superposition"),
    Exhibit("tms-baselines", "book Table 1.6", "Other directions from the same gradients", "01_superposition"),
    Exhibit("tms-agreement", "book Table 1.7", "Agreement between decompositions", "01_superposition"),
    Exhibit("tms-revival", "book Table 1.8", "Dead subnetworks revived", "01_superposition"),
    Exhibit("tms-copies", "book Table 1.9", "Three copies of the toy at once", "01_superposition"),
    Exhibit("tms-split", "book Table 1.10", "What the error is made of", "01_superposition"),
    Exhibit(
        "tmcs-variants",
        "book Figure 2.1",
        "Error of three variants on circuit superposition",
        "02_circuit_superposition",
    ),
    Exhibit("tmcs-recovery", "book Figure 2.2", "Recovery of the ten inputs over targets", "02_circuit_superposition"),
    Exhibit("tmcs-switches", "book Table 2.1", "Which departure moves the error", "02_circuit_superposition"),
    Exhibit("table-1-measured", "book Table 2.2", "Overlap of subnetworks", "02_circuit_superposition"),
    Exhibit("tmcs-unexplained", "book Table 2.3", "What stays unexplained", "02_circuit_superposition"),
    Exhibit("tmcs-baselines", "book Table 2.4", "Other directions from the same gradients", "02_circuit_superposition"),
    Exhibit("tmcs-agreement", "book Table 2.5", "Agreement between decompositions", "02_circuit_superposition"),
    Exhibit("tmcs-tuning", "book Table 2.6", "The candidates for the tuned variant", "02_circuit_superposition"),
    Exhibit("tmcs-revival", "book Table 2.7", "Dead subnetworks revived", "02_circuit_superposition"),
    Exhibit("tmcs-split", "book Table 2.8", "What the error is made of", "02_circuit_superposition"),
    Exhibit(
        "high-rank-variants", "book Figure 3.1", "Error of three variants on circuits of higher rank", "03_high_rank"
    ),
    Exhibit("high-rank-maps", "book Figure 3.2", "Subnetworks of higher-rank circuits as maps", "03_high_rank"),
    Exhibit("high-rank-by-rank", "book Figure 3.3", "Error against the rank allowed, by variant", "03_high_rank"),
    Exhibit(
        "rank-measured", "book Figure 3.4", "Effective rank of subnetworks against the rank allowed", "03_high_rank"
    ),
    Exhibit("excess-subnetworks", "book Figure 3.5", "Groups found with 6, 8 and 10 subnetworks", "03_high_rank"),
    Exhibit("high-rank-switches", "book Table 3.1", "Which departure moves the error", "03_high_rank"),
    Exhibit("high-rank-recovery", "book Table 3.2", "Recovery of the six groups over targets", "03_high_rank"),
    Exhibit("high-rank-ranks", "book Table 3.3", "Error, recovery and effective rank against rank", "03_high_rank"),
    Exhibit("high-rank-best", "book Table 3.4", "What one direction for each group can do", "03_high_rank"),
    Exhibit("high-rank-sizes", "book Table 3.5", "Error with 6, 8 and 10 subnetworks", "03_high_rank"),
    Exhibit("high-rank-draft", "book Table 3.6", "The draft's 25 inputs", "03_high_rank"),
    Exhibit("high-rank-unexplained", "book Table 3.7", "What stays unexplained", "03_high_rank"),
    Exhibit("high-rank-agreement", "book Table 3.8", "Agreement between decompositions", "03_high_rank"),
    Exhibit("high-rank-tuning", "book Table 3.9", "The candidates for the tuned variant", "03_high_rank"),
    Exhibit("high-rank-baselines", "book Table 3.10", "Other directions from the same gradients", "03_high_rank"),
    Exhibit("high-rank-revival", "book Table 3.11", "Dead subnetworks revived", "03_high_rank"),
    Exhibit("high-rank-split", "book Table 3.12", "What the error is made of", "03_high_rank"),
    Exhibit("squared-variants", "book Figure 4.1", "Error of three variants on both squaring networks", "04_squared"),
    Exhibit("squared-n-v", "book Figure 4.2", "Error against the number of subnetworks, by variant", "04_squared"),
    Exhibit("squared-far", "book Figure 4.3", "Selectivity of steps of six sizes, by variant", "04_squared"),
    Exhibit("squared-reach", "book Figure 4.4", "How far the linear prediction holds", "04_squared"),
    Exhibit(
        "squared-impacts", "book Figure 4.5", "Impact of subnetworks against the value of their input", "04_squared"
    ),
    Exhibit("squared-signs", "book Figure 4.6", "Which sign of its input a subnetwork serves", "04_squared"),
    Exhibit("squared-activity", "book Table 4.1", "Kept coefficients and what they leave", "04_squared"),
    Exhibit("squared-switches", "book Table 4.2", "Which departure moves the error", "04_squared"),
    Exhibit("squared-unexplained", "book Table 4.3", "What stays unexplained", "04_squared"),
    Exhibit("squared-residual", "book Table 4.4", "What stays unexplained, by tensor", "04_squared"),
    Exhibit("squared-agreement", "book Table 4.5", "Agreement between decompositions", "04_squared"),
    Exhibit("squared-tuning", "book Table 4.6", "The candidates for the tuned variant", "04_squared"),
    Exhibit("squared-baselines", "book Table 4.7", "Other directions from the same gradients", "04_squared"),
    Exhibit("squared-revival", "book Table 4.8", "Dead subnetworks revived", "04_squared"),
    Exhibit("squared-split", "book Table 4.9", "What the error is made of", "04_squared"),
    Exhibit("lm-errors", "book Figure 5.1", "Error on a language model, trained and held out", "05_language_model"),
    Exhibit("lm-activity", "book Figure 5.2", "How often its subnetworks are active", "05_language_model"),
    Exhibit("lm-coherence-figure", "book Figure 5.3", "Coherence of top texts beside baselines", "05_language_model"),
    Exhibit("lm-error", "book Table 5.1", "Errors beside other directions", "05_language_model"),
    Exhibit("lm-coherence", "book Table 5.2", "Coherence with z-scores", "05_language_model"),
    Exhibit("lm-selectivity", "book Table 5.3", "Steps of equal effect", "05_language_model"),
    Exhibit("lm-agreement", "book Table 5.4", "Agreement between decompositions", "05_language_model"),
    Exhibit("lm-tuning", "book Table 5.5", "The candidates for the tuned variant", "05_language_model"),
    Exhibit("vision-errors", "book Figure 6.1", "Error on a vision network, trained and held out", "06_vision"),
    Exhibit("vision-activity", "book Figure 6.2", "How often its subnetworks are active", "06_vision"),
    Exhibit("vision-coherence-figure", "book Figure 6.3", "Coherence of top images beside baselines", "06_vision"),
    Exhibit("vision-error", "book Table 6.1", "Errors beside other directions", "06_vision"),
    Exhibit("vision-coherence", "book Table 6.2", "Coherence with z-scores", "06_vision"),
    Exhibit("vision-selectivity", "book Table 6.3", "Steps of equal effect", "06_vision"),
    Exhibit("vision-agreement", "book Table 6.4", "Agreement between decompositions", "06_vision"),
    Exhibit("vision-tuning", "book Table 6.5", "The candidates for the tuned variant", "06_vision"),
    Exhibit("own-training", "book Figure 8.1", "Training and use of a new model's subnetworks", "08_your_own_model"),
    Exhibit("own-served", "book Figure 8.2", "What each subnetwork serves and moves", "08_your_own_model"),
    Exhibit("own-purity", "book Figure 8.3", "Top samples of one rule and of one answer", "08_your_own_model"),
    Exhibit("own-rules", "book Table 8.1", "A new model and its task", "08_your_own_model"),
    Exhibit("own-plan", "book Table 8.2", "What a decomposition will take", "08_your_own_model"),
    Exhibit("own-top", "book Table 8.3", "Top samples and outputs of subnetworks", "08_your_own_model"),
    Exhibit("own-models", "book Table 8.4", "Errors and specialisation over models", "08_your_own_model"),
    Exhibit("own-sizes", "book Table 8.5", "Files of a decomposition", "08_your_own_model"),
    Exhibit("own-failures", "book Table 8.6", "What to change when it fails", "08_your_own_model"),
)
