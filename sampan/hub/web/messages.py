"""The web page's texts in English and Chinese."""

from __future__ import annotations

from collections.abc import Callable

LANGUAGES = {"en": "English", "zh": "中文"}

_CHINESE = {
    "Skip to content": "跳到内容",
    "Search images": "搜索镜像",
    "Search": "搜索",
    "Log in": "登录",
    "Log out": "退出",
    "Account": "账户",
    "Administration": "管理",
    "Language": "语言",
    "Images to run, shared by people": "人人共享、即刻运行的镜像",
    "Find an image, read what is in it, run it with one line.": "找到镜像，看清内容，一行命令运行。",
    "Most pulled": "拉取最多",
    "There are no images here yet. Push the first one:": "这里还没有镜像。推送第一个：",
    "Results for “{term}”: {count}": "“{term}” 共有 {count} 个结果",
    "Nothing was found for “{term}”.": "没有找到 “{term}”。",
    "Previous": "上一页",
    "Next": "下一页",
    "Pulls": "拉取次数",
    "Updated": "更新于",
    "Size": "大小",
    "Tags": "标签",
    "Tag": "标签",
    "Digest": "摘要",
    "Platforms": "平台",
    "Platform": "平台",
    "Overview": "概述",
    "Run it": "运行",
    "Copy": "复制",
    "Copied": "已复制",
    "This repository has no description yet.": "此仓库还没有说明。",
    "Pulls in the last 30 days": "最近 30 天的拉取次数",
    "Pulls per day, the last 30 days; {total} in all, at most {most} on one day.": (
        "最近 30 天每天的拉取次数；共 {total} 次，单日最多 {most} 次。"
    ),
    "Private": "私有",
    "Compare tags": "比较标签",
    "From": "从",
    "To": "到",
    "Compare": "比较",
    "Layers": "层",
    "Instruction": "指令",
    "Files": "文件",
    "Created": "创建于",
    "Author": "作者",
    "Configuration": "配置",
    "Labels": "标记",
    "Attached": "附件",
    "Signatures": "签名",
    "Signed by": "签名者",
    "Check": "校验",
    "Image": "镜像",
    "Verified": "已验证",
    "Not verified": "未验证",
    "Does not hold": "不成立",
    "Not signed": "未签名",
    "made by the trusted key {name}": "由受信任的密钥 {name} 签署",
    "fits its certificate, which is not checked here": "与其证书相符，但此处不校验该证书",
    "no key that this hub trusts made it": "并非由本站信任的密钥签署",
    "it is about another image": "它针对的是另一个镜像",
    "its certificate's key did not make it": "并非由其证书的密钥签署",
    "of a kind that is not read here": "此处无法读取的类型",
    "key {name}": "密钥 {name}",
    "according to {issuer}": "据 {issuer}",
    "No signature is attached.": "没有附带签名。",
    "Packages and origin": "软件包与来源",
    "all platforms": "所有平台",
    "Document": "文档",
    "Packages: {count}": "软件包：{count}",
    "How it was built, from {count} materials": "构建过程，{count} 项原料",
    "How it was built": "构建过程",
    "This is what the builder says; whether to believe it is a question of who signed it.": (
        "这是构建者的陈述；是否可信取决于签名者。"
    ),
    "Statement": "声明",
    "The document itself": "文档原文",
    "Made by": "制作工具",
    "Name or license contains": "名称或许可证包含",
    "Version": "版本",
    "License": "许可证",
    "Supplier": "供应者",
    "Began": "开始",
    "Ended": "结束",
    "Builder": "构建者",
    "Materials": "原料",
    "Parameters": "参数",
    "kept elsewhere:": "存放在别处：",
    "Type": "类型",
    "Name": "名称",
    "Mode": "权限",
    "Owner": "所有者",
    "Modified": "修改时间",
    "Files of layer {digest}": "层 {digest} 的文件",
    "Folder": "目录",
    "The list was cut off: the layer is very large.": "该层过大，列表已截断。",
    "This folder is empty.": "此目录为空。",
    "Differences from {before} to {after}": "从 {before} 到 {after} 的差异",
    "Packages": "软件包",
    "Before": "之前",
    "After": "之后",
    "There is no difference.": "没有差异。",
    "{count} more": "还有 {count} 项",
    "Size changes by {size}": "大小变化 {size}",
    "User name": "用户名",
    "Password": "密码",
    "New password": "新密码",
    "Wrong user name or password.": "用户名或密码错误。",
    "Access tokens": "访问令牌",
    "A token stands for your password in scripts. It is shown once.": (
        "令牌可在脚本中代替密码，只显示一次。"
    ),
    "Your new token is shown this once:": "新令牌只显示这一次：",
    "Label": "备注",
    "Repositories": "仓库",
    "Actions": "权限",
    "Valid for days": "有效天数",
    "Expires": "到期",
    "Last used": "上次使用",
    "never": "从未",
    "Make a token": "创建令牌",
    "Revoke": "撤销",
    "Change the password": "修改密码",
    "Save": "保存",
    "Saved.": "已保存。",
    "Users": "用户",
    "Administrator": "管理员",
    "Add a user": "添加用户",
    "Delete": "删除",
    "Delete the tag {tag} of {repository}?": "删除 {repository} 的标签 {tag}？",
    "Delete the user {name}?": "删除用户 {name}？",
    "This cannot be undone.": "此操作无法撤销。",
    "Keep it": "保留",
    "This is not the name of the repository.": "这不是该仓库的名称。",
    "Teams": "团队",
    "Team": "团队",
    "Add to a team": "加入团队",
    "Remove": "移除",
    "Rights": "权限",
    "Holder": "持有者",
    "Pattern": "模式",
    "Level": "级别",
    "A user, or a team as @team": "用户名，或 @团队",
    "Give": "授予",
    "Audit log": "审计日志",
    "Time": "时间",
    "Action": "操作",
    "Subject": "对象",
    "Address": "地址",
    "Settings": "设置",
    "Description": "简介",
    "Read me (Markdown)": "说明（Markdown）",
    "Only people with rights may see it": "仅有权限的人可见",
    "Delete this repository": "删除此仓库",
    "Type the repository's name to delete it with all its images": (
        "输入仓库名以删除它及其全部镜像"
    ),
    "Too many requests": "请求过多",
    "Page not found": "页面不存在",
    "Something is wrong": "出错了",
    "Go to the start page": "回到首页",
    "Served by sampan": "由 sampan 提供服务",
    "yes": "是",
    "no": "否",
}

Translate = Callable[..., str]


def translator(language: str) -> Translate:
    """A function from an English text, with its values by name, to the text in ``language``."""
    texts = _CHINESE if language == "zh" else {}

    def translate(text: str, **values: object) -> str:
        found = texts.get(text, text)
        return found.format(**values) if values else found

    return translate


def choose(accept_language: str, wanted: str) -> str:
    """The language to answer in: the wanted one, or the browser's, or English."""
    if wanted in LANGUAGES:
        return wanted
    for part in accept_language.lower().split(","):
        name = part.split(";")[0].strip().split("-")[0]
        if name in LANGUAGES:
            return name
    return "en"
