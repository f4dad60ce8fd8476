"""The five aspects by which ECR has replies of a recommender judged, from 0 to 9 (Zhang et al. 2024, "Towards Empathetic
Conversational Recommender Systems", RecSys). The names are theirs, the sentences ours."""

SCALE = [0, 9]
ASPECTS = {
    "emotional_intensity": "The reply expresses strong and unmistakable feelings towards the other person, rather than none.",
    "emotional_persuasiveness": "The reply makes the other person feel drawn to what it suggests, by taking up their feelings.",
    "logic": "The reply follows from the conversation and does not contradict it or itself.",
    "informativeness": "The reply says much that is specific and useful, rather than phrases that would fit any conversation.",
    "lifelikeness": "The reply sounds like a living person in this conversation, rather than like a machine.",
}
