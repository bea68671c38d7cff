# Reads the part of cloud-config and NoCloud meta-data that `tiny` understands.
#   awk -v want=NAME -f seed.awk FILE
# prints, one per line: for a list its items, for a scalar its value; for `runcmd` a shell script, one command per item;
# for `password` root's password, from wherever cloud-config may hold it.
# It is not a YAML parser: block style, flow lists on one or more lines, quotes, `|` blocks and comments are enough.

function indent_of(text) { match(text, /^ */); return RLENGTH }

function trim(text) { sub(/^[ \t]+/, "", text); sub(/[ \t]+$/, "", text); return text }

# A scalar without its quotes, its escapes or its trailing comment.
function scalar(text,    quote, out, i, c) {
    text = trim(text)
    quote = substr(text, 1, 1)
    if (quote == "\"" || quote == "'") {
        out = ""
        for (i = 2; i <= length(text); i++) {
            c = substr(text, i, 1)
            if (quote == "\"" && c == "\\") {
                c = substr(text, ++i, 1)
                out = out (c == "n" ? "\n" : c == "t" ? "\t" : c)
            } else if (c == quote) {
                if (quote == "'" && substr(text, i + 1, 1) == "'") { out = out "'"; i++ } else break
            } else out = out c
        }
        return out
    }
    sub(/[ \t]+#.*$/, "", text)
    return text
}

function shell_quote(text) { gsub(/'/, "'\\''", text); return "'" text "'" }

# Splits "[ a, 'b, c', \"d\" ]" into items[1..n].
function flow(text, items,    n, i, c, quote, item) {
    text = trim(text)
    text = substr(text, 2)
    n = 0; quote = ""; item = ""
    for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (quote != "") {
            item = item c
            if (quote == "\"" && c == "\\") item = item substr(text, ++i, 1)
            else if (c == quote) quote = ""
        } else if ((c == "\"" || c == "'") && trim(item) == "") { quote = c; item = c }
        else if (c == "," || c == "]") {
            if (trim(item) != "") items[++n] = scalar(item)
            item = ""
            if (c == "]") break
        } else item = item c
    }
    return n
}

# Whether the brackets of a flow list are closed, quotes respected.
function closed(text,    i, c, quote, depth) {
    quote = ""; depth = 0
    for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (quote != "") {
            if (quote == "\"" && c == "\\") i++
            else if (c == quote) quote = ""
        } else if (c == "\"" || c == "'") quote = c
        else if (c == "[") depth++
        else if (c == "]" && --depth == 0) return 1
    }
    return 0
}

{ line[NR] = $0 }

END {
    for (at = 1; at <= NR; at++) {
        text = line[at]
        if (text ~ /^[ \t]*(#|$)/) continue
        depth = indent_of(text)
        body = substr(text, depth + 1)
        # "- name: root": the key is behind the dash, and as deep as its neighbours.
        while (body ~ /^- +[A-Za-z_-]+:/) { sub(/^- +/, "", body); depth = length(text) - length(body) }
        if (body !~ /^[A-Za-z_-]+:/) continue
        key = body; sub(/:.*/, "", key)
        rest = trim(substr(body, length(key) + 2))
        if (want == "password") password(key, rest, depth)
        else if (key == want && (depth == 0 || want == "ssh_authorized_keys")) entry(rest, depth)
    }
}

function password(key, rest, depth,    next_line) {
    if (key ~ /^(password|plain_text_passwd|passwd|hashed_passwd)$/ && rest != "") print scalar(rest)
    else if (key == "list" && rest ~ /^\|/)
        for (at++; at <= NR && (line[at] ~ /^ *$/ || indent_of(line[at]) > depth); at++) root_password(line[at])
    else if (key == "list")
        for (at++; at <= NR && line[at] ~ /^ *- /; at++) { next_line = line[at]; sub(/^ *- +/, "", next_line); root_password(scalar(next_line)) }
    else return
    if (key == "list") at--
}

function root_password(text) { text = trim(text); if (text ~ /^root:/) print substr(text, 6) }

# The value of the wanted key: a scalar, a flow list, or the block list that follows.
function entry(rest, depth,    n, i, items) {
    if (rest ~ /^\[/) {
        while (!closed(rest) && at < NR) rest = rest " " trim(line[++at])
        n = flow(rest, items)
        for (i = 1; i <= n; i++) print items[i]
    } else if (rest != "" && rest !~ /^#/) {
        print scalar(rest)
    } else {
        while (at < NR) {
            if (line[at + 1] ~ /^ *(#.*)?$/) { at++; continue }
            if (indent_of(line[at + 1]) < depth || line[at + 1] !~ /^ *-( |$)/) break
            at++
            item(line[at])
        }
    }
}

# One "- …" of a block list; eats the lines that belong to it.
function item(text,    depth, n, i, items, command, block, margin) {
    depth = indent_of(text)
    text = substr(text, depth + 2)
    depth += 2
    text = trim(text)
    if (text ~ /^[|>]/) {
        block = ""; margin = -1
        while (at < NR && (line[at + 1] ~ /^ *$/ || indent_of(line[at + 1]) >= depth)) {
            at++
            if (margin < 0 && line[at] !~ /^ *$/) margin = indent_of(line[at])
            block = block substr(line[at], margin + 1) (text ~ /^>/ ? " " : "\n")
        }
        sub(/[\n ]+$/, "", block)
        print block
        return
    }
    if (text ~ /^\[/) {
        while (!closed(text) && at < NR) text = text " " trim(line[++at])
        n = flow(text, items)
    } else if (text ~ /^- / || text == "") {
        n = 0
        if (text != "") items[++n] = scalar(substr(text, 3))
        while (at < NR && indent_of(line[at + 1]) >= depth && line[at + 1] ~ /^ *- /) {
            at++
            text = line[at]; sub(/^ *- +/, "", text)
            items[++n] = scalar(text)
        }
    } else {
        # A plain or quoted scalar, folded over deeper lines.
        while (at < NR && line[at + 1] !~ /^ *$/ && indent_of(line[at + 1]) >= depth) text = text " " trim(line[++at])
        print scalar(text)
        return
    }
    command = ""
    for (i = 1; i <= n; i++) command = command (i > 1 ? " " : "") shell_quote(items[i])
    print command
}
