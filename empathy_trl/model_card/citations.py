"""What a card asks to cite: this package, the papers of its systems, corpora and methods."""

from empathy_trl import __version__

ENTRIES = {
    "empathy_trl": f"""@software{{empathy_trl,
  title   = {{empathy-trl: recipes that train language models to respond with empathy}},
  author  = {{{{The empathy-trl authors}}}},
  version = {{{__version__}}},
  license = {{Apache-2.0}}
}}""",
    "rashkin2019": """@inproceedings{rashkin2019,
  title     = {Towards Empathetic Open-domain Conversation Models: A New Benchmark and Dataset},
  author    = {Rashkin, Hannah and Smith, Eric Michael and Li, Margaret and Boureau, Y-Lan},
  booktitle = {Proceedings of ACL},
  year      = {2019}
}""",
    "you2025": """@article{you2025,
  title   = {R2ec: Towards Large Recommender Models with Reasoning},
  author  = {You, Runyang and others},
  journal = {arXiv:2505.16994},
  year    = {2025}
}""",
    "giorgi2024": """@inproceedings{giorgi2024,
  title     = {Findings of WASSA 2024 Shared Task on Empathy and Personality Detection in Interactions},
  author    = {Giorgi, Salvatore and Sedoc, Jo{\\~a}o and Barriere, Valentin and Tafreshi, Shabnam},
  booktitle = {Proceedings of WASSA},
  year      = {2024}
}""",
    "li2018": """@inproceedings{li2018,
  title     = {Towards Deep Conversational Recommendations},
  author    = {Li, Raymond and Kahou, Samira and Schulz, Hannes and Michalski, Vincent and Charlin, Laurent and Pal, Chris},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2018}
}""",
    "zhang2024": """@inproceedings{zhang2024,
  title     = {Towards Empathetic Conversational Recommender Systems},
  author    = {Zhang, Xiaoyu and others},
  booktitle = {Proceedings of RecSys},
  year      = {2024}
}""",
    "peng2022": """@article{peng2022,
  title   = {GODEL: Large-Scale Pre-Training for Goal-Directed Dialog},
  author  = {Peng, Baolin and others},
  journal = {arXiv:2206.11309},
  year    = {2022}
}""",
    "sharma2020": """@inproceedings{sharma2020,
  title     = {A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health Support},
  author    = {Sharma, Ashish and Miner, Adam S. and Atkins, David C. and Althoff, Tim},
  booktitle = {Proceedings of EMNLP},
  year      = {2020}
}""",
    "welivita2020": """@inproceedings{welivita2020,
  title     = {A Taxonomy of Empathetic Response Intents in Human Social Conversations},
  author    = {Welivita, Anuradha and Pu, Pearl},
  booktitle = {Proceedings of COLING},
  year      = {2020}
}""",
    "shao2024": """@article{shao2024,
  title   = {DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models},
  author  = {Shao, Zhihong and others},
  journal = {arXiv:2402.03300},
  year    = {2024}
}""",
    "schulman2017": """@article{schulman2017,
  title   = {Proximal Policy Optimization Algorithms},
  author  = {Schulman, John and Wolski, Filip and Dhariwal, Prafulla and Radford, Alec and Klimov, Oleg},
  journal = {arXiv:1707.06347},
  year    = {2017}
}""",
}
OF_TASK = {"grpo": ("shao2024",), "ppo": ("schulman2017",)}
OF_BUILDER = {
    "ed4": ("you2025",),
    "wassa": ("giorgi2024",),
    "redial": ("zhang2024",),
    "epitome": ("sharma2020",),
    "intents": ("welivita2020",),
}


def bibtex(keys) -> str:
    """Return the entries of some keys, this package first, each once."""
    return "\n\n".join(ENTRIES[key] for key in dict.fromkeys(("empathy_trl", *keys)))
