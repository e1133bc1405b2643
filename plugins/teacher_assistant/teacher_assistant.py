"""Teacher-assistant knowledge distillation (Mirzadeh et al., AAAI 2020, arXiv 1902.03393)."""

from __future__ import annotations

from mtard_tf.plugins.teacher_assistant.knowledge_distillation import KnowledgeDistillation


class TeacherAssistant(KnowledgeDistillation):
    """One link of a chain teacher -> assistant -> ... -> student, each by Hinton's loss.

    Every link has the hard labels as well (defensive distillation's chains have none) and learns
    from the one before it alone (`densely_guided` learns from all). With lambda the paper's weight
    of the soft labels, alpha is 1 - lambda. The paper searches lambda and T for each pair; the
    defaults here are Hinton's form at alpha 0.5, T 4.

    Source: `imirzadeh/Teacher-Assistant-Knowledge-Distillation`, `train.py:92-97`. Its
    ResNets never train at their first learning rate (`train.py:152`); a schedule here does what it
    says.
    """
