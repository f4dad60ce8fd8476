"""The five aspects by which ECR has the replies of a recommender judged, from 0 to 9.

Zhang et al. 2024, "Towards Empathetic Conversational Recommender Systems" (RecSys). The names are theirs, the sentences ours.
"""

SCALE = [0, 9]
ASPECTS = {
    "emotional_intensity": "The reply expresses strong and unmistakable feelings towards the other person.",
    "emotional_persuasiveness": "The reply takes up the other person's feelings and so draws them to what it suggests.",
    "logic": "The reply follows from the conversation and contradicts neither it nor itself.",
    "informativeness": "The reply says much that is specific and useful, rather than phrases that would fit any turn.",
    "lifelikeness": "The reply sounds like a living person in this conversation, rather than like a machine.",
}
