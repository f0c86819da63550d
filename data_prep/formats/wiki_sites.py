"""Wikipedias of several languages: what their link sections are called, and older names of their image links."""

from functools import lru_cache

from data_prep.wikitext import DROPPED_NAMESPACES, LINK_SECTIONS, Site

# Aliases are no part of a dump, which names only the namespaces that the site uses today.
IMAGE_ALIASES = {
    "de": "bild",
    "es": "imagen",
    "fr": "fichier",
    "it": "immagine",
    "ja": "画像",
    "nl": "afbeelding",
    "pl": "grafika",
    "pt": "imagem",
    "ru": "изображение",
    "sv": "bild",
    "uk": "зображення",
    "zh": "图像|圖像",
}

SECTIONS = {
    "ar": "مراجع|المراجع|وصلات خارجية|روابط خارجية|انظر أيضا|انظر أيضًا",
    "cs": "externí odkazy|literatura|poznámky|reference|související články",
    "de": "anmerkungen|belege|einzelnachweise|fußnoten|literatur|quellen|siehe auch|weblinks",
    "es": "bibliografía|enlaces externos|fuentes|notas|notas y referencias|referencias|véase también",
    "fr": "annexes|articles connexes|bibliographie|liens externes|notes|notes et références|références|voir aussi",
    "it": "altri progetti|bibliografia|collegamenti esterni|note|voci correlate",
    "ja": "関連項目|参考文献|外部リンク|出典|注釈|脚注",
    "ko": "각주|같이 보기|외부 링크|참고 문헌",
    "nl": "bronnen|externe link|externe links|literatuur|noten|referenties|zie ook",
    "pl": "bibliografia|linki zewnętrzne|przypisy|uwagi|zobacz też",
    "pt": "bibliografia|ligações externas|notas|notas e referências|referências|ver também",
    "ru": "источники|литература|примечания|см. также|ссылки",
    "sv": "externa länkar|källor|litteratur|noter|referenser|se även",
    "tr": "ayrıca bakınız|dış bağlantılar|kaynakça|notlar",
    "uk": "див. також|джерела|література|посилання|примітки",
    "vi": "chú thích|ghi chú|liên kết ngoài|tham khảo|xem thêm",
    "zh": "参考文献|參考文獻|参考资料|參考資料|外部链接|外部連結|参见|參見|注释|註釋",
}


@lru_cache(maxsize=64)
def site_of(language: str, namespaces: tuple[str, ...] = ()) -> Site:
    """The site of a language (Wikipedia's code), whose dump calls files, media and categories by these names too."""

    def names(table: dict[str, str]) -> set[str]:
        return set(table[language].split("|")) if language in table else set()

    return Site(
        dropped_namespaces=DROPPED_NAMESPACES | names(IMAGE_ALIASES) | {name.lower() for name in namespaces},
        link_sections=LINK_SECTIONS | names(SECTIONS),
    )
